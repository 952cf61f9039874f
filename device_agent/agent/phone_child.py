"""The agent's side of a phone's process: start it, hear it, start it again, and give its job back when it dies."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO

from pydantic import ValidationError

from device_agent.agent.memory import rss_bytes
from device_agent.agent.messages import Held, News, Orders, Word
from device_agent.agent.outbox import Outbox
from device_agent.contracts import (
    Blame,
    Failure,
    Fault,
    LeaseResult,
    PhoneState,
    Sighting,
    WorkerProcess,
)

_START_SECONDS = 120.0
_LONGEST_PAUSE = 30.0
_IDLE_SECONDS = 2.0
_PROVEN_SECONDS = 60.0  # a process that lived this long did not fail at its start
_LOG = logging.getLogger(__name__)


class PhoneChild:
    """One phone, and the process that works for it. All methods belong to the agent's thread, but for the reader.

    `wake` is called, in another thread, when the process has said something or has ended.
    """

    def __init__(self, orders: Orders, outbox: Outbox, wake: Callable[[], None]) -> None:
        self.serial = orders.serial
        self.changed = True
        self.outcome = False
        self._orders, self._outbox, self._wake = orders, outbox, wake
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._started_at = datetime.now(UTC)
        self._alive_since = 0.0
        self._start_at = 0.0
        self._restarts = -1
        self._failures = 0
        self._stopping = False
        self._deadline = 0.0
        self._held: Held | None = None
        self._poll_seconds: float | None = None
        self._sighting = Sighting(
            serial=orders.serial, via=orders.via, state=PhoneState.UNPROVEN, probed_at=self._started_at
        )

    @property
    def sighting(self) -> Sighting:
        """The phone as it was last seen, with the process that saw it."""
        if self._process is None:
            return self._sighting
        worker = WorkerProcess(
            pid=self._process.pid,
            started_at=self._started_at,
            restarts=self._restarts,
            rss_bytes=rss_bytes(self._process.pid),
        )
        return self._sighting.model_copy(update={"worker": worker})

    @property
    def working(self) -> bool:
        """Whether it holds a lease."""
        return self._held is not None

    @property
    def next_at(self) -> float:
        """When `tend` has something to do, if nothing is heard before (time.monotonic seconds)."""
        return self._start_at if self._process is None else self._deadline

    def tend(self) -> None:
        """Start the process when it is time; end one that hangs; see to what one that died has left."""
        now = time.monotonic()
        process = self._process
        if process is None:
            if not self._stopping and now >= self._start_at:
                self._start(now)
        elif process.poll() is not None:
            self._bury(process.returncode, now)
        elif now >= self._deadline:
            _LOG.warning("%s: its process hangs; killing it", self.serial)
            process.kill()
            process.wait()
            self._bury(None, now)

    def say(self, word: Word) -> None:
        """Send a word, if there is a process to hear it."""
        if word.poll_seconds is not None:
            if word.poll_seconds == self._poll_seconds:
                return
            self._poll_seconds = word.poll_seconds
        self._send(word.model_dump_json())

    def stop(self) -> None:
        """Ask the process to end."""
        self._stopping = True
        self._send(Word(stop=True).model_dump_json())

    def join(self, seconds: float) -> None:
        """Wait for the end that `stop` asked for; after `seconds` it comes by force, and sooner where no job runs."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, seconds if self.working else min(seconds, _IDLE_SECONDS)))
        except subprocess.TimeoutExpired:
            _LOG.debug("%s: its process waits for its phone; killing it", self.serial)
            process.kill()
            process.wait()
        self._bury(process.returncode, time.monotonic())

    def _start(self, now: float) -> None:
        command = [sys.executable, "-m", "device_agent.agent.phone_process"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._restarts += 1
        self._started_at, self._alive_since, self._deadline = datetime.now(UTC), now, now + _START_SECONDS
        self._send(self._orders.model_dump_json())
        if self._poll_seconds is not None:
            self._send(Word(poll_seconds=self._poll_seconds).model_dump_json())
        self._reader = threading.Thread(
            target=self._hear, args=(self._process,), name=f"phone-{self.serial}", daemon=True
        )
        self._reader.start()

    def _send(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # it has just ended, which `tend` will see
            _LOG.debug("%s: its process hears no longer", self.serial)

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            try:
                news = News.model_validate_json(line)
            except ValidationError:  # half a line, from a process that was killed while it wrote
                break
            before = self._sighting
            self._held = news.held
            self._deadline = time.monotonic() + news.patience
            self._sighting = news.sighting
            self.outcome = self.outcome or news.outcome
            if (before.state, before.health) != (news.sighting.state, news.sighting.health):
                self.changed = True
            if news.outcome or self.changed:
                self._wake()
        process.wait()
        self._wake()

    def _bury(self, code: int | None, now: float) -> None:
        """What the process held goes back to the server; another one follows, later each time."""
        process, self._process = self._process, None
        if self._reader is not None:
            self._reader.join()
        for pipe in (process.stdin, process.stdout) if process else ():
            if pipe is not None:
                _close(pipe)
        how = "did nothing for too long and was killed" if code is None else f"ended with {_ending(code)}"
        held, self._held = self._held, None
        if held is not None:
            self._give_back(held, how)
        if self._stopping:
            return
        self._failures = 0 if now - self._alive_since > _PROVEN_SECONDS else self._failures + 1
        pause = min(_LONGEST_PAUSE, 0.5 * 2 ** min(self._failures, 10)) if self._failures else 0.0
        self._start_at = now + pause
        _LOG.warning("%s: its process %s; another starts in %.1f s", self.serial, how, pause)
        fault = _died(how)
        update = {"state": PhoneState.UNPROVEN, "fault": fault, "probed_at": datetime.now(UTC)}
        self._sighting = self._sighting.model_copy(update=update)
        self.changed = True

    def _give_back(self, held: Held, how: str) -> None:
        """If the process journalled an outcome before it died, that one stays."""
        outcome = Failure(fault=_died(how))
        self._outbox.put(held.job_id, LeaseResult(epoch=held.epoch, secret=held.secret, outcome=outcome))
        self.outcome = True


def _died(how: str) -> Fault:
    return Fault(
        blame=Blame.INFRASTRUCTURE,
        slug="phone-process-died",
        message=f"The agent's process for this phone {how}.",
        advice="The agent starts another by itself; if this comes again, read the agent's log.",
    )


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:  # what was written last found no reader
        _LOG.debug("a pipe was broken")
