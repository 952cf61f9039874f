"""The worker's loop: claim, keep the claim alive, work, finish; then the next."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from device_agent.contracts import Blame, Fault, FulcrumError
from search.blame import defect
from search.errors import SearchCancelled
from server.clock import new_id
from server.errors import Cancelled, OwnershipLost
from server.runs import TRIES, WorkState
from server.services import Services
from server.settings import Settings
from server.worker.searching import run_search
from server.worker.training import run_training
from trainer.errors import Interrupted, TrainerError

_IDLE_SECONDS = 0.5
_RENEW_SECONDS = 4.0
_GOODBYE_SECONDS = 4.0  # for a training to save its checkpoint

log = logging.getLogger("fulcrum.worker")

Finish = Callable[[str, str, WorkState, Fault | None], None]


class Worker:
    """Takes searches and runs one at a time; within one, every core is used."""

    def __init__(self, services: Services, stop: threading.Event) -> None:
        self._services, self._stop = services, stop
        self._owner = f"{os.getpid()}-{new_id()}"

    def run(self) -> None:
        """Work until told to stop; what is held then is let go for the next worker."""
        with self._renewing():
            while not self._stop.is_set():
                if not self.once():
                    self._stop.wait(_IDLE_SECONDS)

    def once(self) -> bool:
        """Do one piece of work, if there is one; says whether there was."""
        claims, services, owner = self._services.claims, self._services, self._owner
        if search := claims.claim_search(owner):
            self._settle(search.id, lambda: run_search(search, services, owner), claims.finish_search)
        elif run := claims.claim_run(owner):
            self._settle(run.id, lambda: run_training(run, services, owner, self._stop), claims.finish_run)
        else:
            return False
        return True

    def let_go(self) -> None:
        """Give up what is held, so that the next worker takes it over at once."""
        self._services.claims.release(self._owner)

    def _settle(self, name: str, work: Callable[[], None], finish: Finish) -> None:
        """Work, and record how it ended. A fault of the world leaves it open, for another try."""
        try:
            work()
            state, fault = WorkState.SUCCEEDED, None
        except (Cancelled, SearchCancelled):
            state, fault = WorkState.CANCELLED, None
        except OwnershipLost:
            log.warning("%s was taken over by another worker", name)
            return
        except Interrupted:
            self._services.claims.release(self._owner)  # we were told to stop; the next worker goes on
            return
        except Exception as error:
            log.exception("%s failed", name)
            fault, tries = _fault(error), self._services.claims.attempts(self._owner)
            if fault.blame is Blame.INFRASTRUCTURE and tries < TRIES:
                self._stop.wait(_IDLE_SECONDS * 2**tries)
                self._services.claims.retry(self._owner)
                return
            state = WorkState.FAILED
        finish(name, self._owner, state, fault)

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Renew claims beside the work; a worker that cannot renew them loses them, and its next write says so."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(_RENEW_SECONDS):
                try:
                    self._services.claims.renew(self._owner)
                except Exception:
                    log.exception("renewing the claim failed; trying again")

        thread = threading.Thread(target=renew, name="renew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.let_go()


def _fault(error: Exception) -> Fault:
    if isinstance(error, FulcrumError):
        return error.as_fault()
    if isinstance(error, TrainerError):
        return Fault(blame=Blame.USER, slug=error.slug, message=error.message, advice=error.advice)
    return defect(error)


def serve(settings: Settings) -> None:
    """Work until the parent closes our standard input: a worker never outlives its server."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    worker = Worker(Services.of(settings), stop)

    def watch() -> None:
        sys.stdin.buffer.read()
        stop.set()
        # A measurement or an export may take minutes; the tables know all that was reached.
        time.sleep(_GOODBYE_SECONDS)
        worker.let_go()
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    worker.run()
