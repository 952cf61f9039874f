"""One phone's worker: probe it, lease a job for it, run the job, journal the outcome; one at a time."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from device_agent.adb import Link
from device_agent.agent.cache import ArtifactCache
from device_agent.agent.client import ServerClient
from device_agent.agent.keeper import LeaseKeeper
from device_agent.agent.outbox import Outbox
from device_agent.bench import Bench
from device_agent.contracts import (
    Blame,
    Failure,
    Fault,
    FulcrumError,
    JobOutcome,
    Lease,
    LeaseRequest,
    LeaseResult,
    PhoneState,
    Sighting,
    Success,
)
from device_agent.probe import probe
from device_agent.runner.bundle import RunnerBundle

_EAGER_SECONDS = 0.1
_LOG = logging.getLogger(__name__)
_CONNECT_SECONDS = 15.0


@dataclass(frozen=True)
class Tools:
    """What the workers of one agent share."""

    client: ServerClient
    outbox: Outbox
    cache: ArtifactCache
    runners: Sequence[RunnerBundle]
    key_path: Path
    name: str
    incarnation: str
    probe_seconds: float
    process_seconds: float
    deliver: Callable[[], None]


class PhoneWorker:
    """A thread for one phone. `poll_seconds` is how long it waits between questions for work, at the longest.

    After a job it asks again soon: in a search the next one often follows at once.
    """

    def __init__(self, address: str, tools: Tools) -> None:
        self.address = address
        self.poll_seconds = 2.0
        self._tools = tools
        self._stop = threading.Event()
        self._keeper: LeaseKeeper | None = None
        self._failures = 0
        self._unanswered = 0
        self._probe_at = 0.0
        self._sighting = Sighting(serial=address, state=PhoneState.UNPROVEN, probed_at=datetime.now(UTC))
        self._thread = threading.Thread(target=self._run, name=f"phone-{address}", daemon=True)

    @property
    def sighting(self) -> Sighting:
        """The phone as it was last seen."""
        return self._sighting

    def start(self) -> None:
        """Start working."""
        self._thread.start()

    def stop(self) -> None:
        """Stop: what runs on the phone is killed, and its job is given back."""
        self._stop.set()
        keeper = self._keeper
        if keeper is not None:
            keeper.drop()

    def join(self, seconds: float) -> None:
        """Wait for the end of `stop`."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
                pause = min(self.poll_seconds, _EAGER_SECONDS * 2**self._unanswered)
            except FulcrumError as error:
                self._failures += 1
                pause = min(30.0, self.poll_seconds * 2 ** min(self._failures, 5))
                _LOG.warning("%s: %s Again in %.0f s.", self.address, error.message, pause)
            except Exception:
                _LOG.exception("%s", self.address)
                pause = 30.0
            self._stop.wait(pause)

    def _turn(self) -> None:
        """Probe when it is time, then work as long as there is work."""
        while not self._stop.is_set():
            if time.monotonic() >= self._probe_at:
                self._probe()
            if self._sighting.state is not PhoneState.READY:
                return
            request = LeaseRequest(agent=self._tools.name, incarnation=self._tools.incarnation, serials=(self.address,))
            lease = self._tools.client.lease(request)
            self._failures = 0
            if lease is None:
                self._unanswered += 1
                return
            self._work(lease)
            self._unanswered = 0

    def _probe(self) -> None:
        before = self._sighting.state
        self._sighting = probe(self.address, self._tools.key_path, self._sighting.facts)
        if self._sighting.state is PhoneState.READY:
            self._probe_at = time.monotonic() + self._tools.probe_seconds
        else:
            self._probe_at = time.monotonic() + self.poll_seconds
        if self._sighting.state is not before:
            why = f": {self._sighting.fault.message} {self._sighting.fault.advice}" if self._sighting.fault else ""
            _LOG.info("%s is %s%s", self.address, self._sighting.state, why)

    def _work(self, lease: Lease) -> None:
        _LOG.info("%s: job %s (%s)", self.address, lease.job_id, lease.job.kind)
        started = time.monotonic()
        with LeaseKeeper(self._tools.client, lease) as keeper:
            self._keeper = keeper
            outcome = self._attempt(lease, keeper)
            self._keeper = None
            if keeper.lost:
                return
        _LOG.info("%s: job %s: %s in %.1f s", self.address, lease.job_id, outcome.kind, time.monotonic() - started)
        self._tools.outbox.put(lease, LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=outcome))
        self._tools.deliver()

    def _attempt(self, lease: Lease, keeper: LeaseKeeper) -> JobOutcome:
        fault: Fault
        try:
            if keeper.lost or self._stop.is_set():
                return Failure(fault=_stopped())
            files = self._tools.cache.files_of(lease.job.program)
            with Link.connect(self.address, self._tools.key_path, _CONNECT_SECONDS) as link:
                keeper.guard(link)
                bench = Bench(
                    link, self._tools.runners, serial=lease.serial, process_seconds=self._tools.process_seconds
                )
                return Success(result=bench.run(lease.job, files))
        except FulcrumError as error:
            fault = error.as_fault()
            if fault.blame is Blame.PHONE:
                self._probe_at = 0.0
        except Exception as error:
            _LOG.exception("job %s", lease.job_id)
            fault = Fault(
                blame=Blame.US,
                slug="agent-bug",
                message=f"{type(error).__name__}: {error}",
                advice="Please report this with the agent's log.",
            )
        return Failure(fault=_stopped() if self._stop.is_set() else fault)


def _stopped() -> Fault:
    return Fault(
        blame=Blame.INFRASTRUCTURE,
        slug="agent-stopped",
        message="The agent was stopped while it ran this job.",
        advice="The job runs again when an agent asks for it.",
    )
