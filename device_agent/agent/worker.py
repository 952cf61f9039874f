"""One phone's work: probe it, check it, lease a job for it, run the job, journal the outcome; one at a time."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from device_agent.adb import Link
from device_agent.agent.cache import ArtifactCache
from device_agent.agent.client import ServerClient
from device_agent.agent.keeper import LeaseKeeper
from device_agent.agent.memory import rss_bytes
from device_agent.agent.messages import Held, News, Orders
from device_agent.agent.outbox import Outbox
from device_agent.bench import Bench
from device_agent.contracts import (
    Blame,
    Failure,
    Fault,
    FulcrumError,
    HealthCheck,
    JobOutcome,
    Lease,
    LeaseRequest,
    LeaseResult,
    PhoneState,
    Sighting,
    Success,
    Vitals,
)
from device_agent.health import check
from device_agent.probe import PROMPT_SECONDS, SECONDS, probe
from device_agent.runner.bundle import RunnerBundle

_EAGER_SECONDS = 0.1
_CONNECT_SECONDS = 15.0
_STEP_SECONDS = 240.0  # nothing but a job takes longer: each call to phone and server has a deadline of its own
_DELIVERY_SECONDS = 2.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tools:
    """What a phone's process works with."""

    client: ServerClient
    outbox: Outbox
    cache: ArtifactCache
    runners: Sequence[RunnerBundle]


class PhoneWorker:
    """The loop of one phone's process. `poll_seconds` is how long it waits between questions for work, at the longest.

    After a job it asks again soon: in a search the next one often follows at once.
    """

    def __init__(self, orders: Orders, tools: Tools, tell: Callable[[News], None]) -> None:
        """`tell` takes news to the agent."""
        self.poll_seconds = 2.0
        self._orders, self._tools, self._tell = orders, tools, tell
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._delivered = threading.Event()
        self._keeper: LeaseKeeper | None = None
        self._failures = 0
        self._unanswered = 0
        self._probe_at = 0.0
        self._check_at = 0.0
        self._jobs_unchecked = 0
        self._sighting = Sighting(
            serial=orders.serial, via=orders.via, state=PhoneState.UNPROVEN, probed_at=datetime.now(UTC)
        )

    def check_soon(self) -> None:
        """Check the phone's health as soon as no job runs; from any thread."""
        self._check_at = self._probe_at = 0.0
        self._wake.set()

    def delivered(self) -> None:
        """The server has what the outbox held; from any thread."""
        self._delivered.set()

    def stop(self) -> None:
        """End `run` soon, from any thread: what runs on the phone is killed, and its job is given back."""
        self._stop.set()
        self._wake.set()
        self._delivered.set()
        keeper = self._keeper
        if keeper is not None:
            keeper.drop()

    def run(self) -> None:
        """Work until `stop`, or until the process has grown too big: the agent starts another."""
        while not self._stop.is_set():
            try:
                self._turn()
                pause = min(self.poll_seconds, _EAGER_SECONDS * 2**self._unanswered)
            except FulcrumError as error:
                self._failures += 1
                pause = min(30.0, self.poll_seconds * 2 ** min(self._failures, 5))
                _LOG.warning("%s: %s Again in %.0f s.", self._orders.serial, error.message, pause)
            if self._overgrown():
                return
            self._say(pause + _STEP_SECONDS)
            self._wake.wait(pause)
            self._wake.clear()

    def _overgrown(self) -> bool:
        size = rss_bytes(os.getpid()) or 0
        if size > self._orders.max_rss_bytes:
            _LOG.warning(
                "%s: its process holds %.0f MB, and makes room for a fresh one", self._orders.serial, size / 1e6
            )
        return size > self._orders.max_rss_bytes

    def _say(self, patience: float = _STEP_SECONDS, held: Held | None = None, outcome: bool = False) -> None:
        self._tell(News(sighting=self._sighting, patience=patience, held=held, outcome=outcome))

    def _turn(self) -> None:
        """Probe when it is time, then work as long as there is work."""
        while not self._stop.is_set():
            if time.monotonic() >= self._probe_at:
                self._probe()
            if self._sighting.state is not PhoneState.READY:
                return
            request = LeaseRequest(
                agent=self._orders.name, incarnation=self._orders.incarnation, serials=(self._orders.serial,)
            )
            lease = self._tools.client.lease(request)
            self._failures = 0
            if lease is None:
                self._unanswered = min(self._unanswered + 1, 10)
                return
            self._work(lease)
            self._unanswered = 0

    def _probe(self) -> None:
        before = self._sighting
        due = time.monotonic() >= self._check_at or self._jobs_unchecked >= self._orders.check_jobs
        self._sighting = probe(
            self._orders.serial,
            self._orders.key_path,
            before,
            policy=self._orders.battery,
            seconds=PROMPT_SECONDS if before.state is PhoneState.UNAUTHORISED else SECONDS,
            check=self._check if due else None,
        )
        if self._sighting.state in (PhoneState.READY, PhoneState.RESTING):
            self._probe_at = time.monotonic() + self._orders.probe_seconds
        else:
            self._probe_at = time.monotonic() + self.poll_seconds
        if self._sighting.health is not before.health and self._sighting.health is not None:
            self._check_at = time.monotonic() + self._orders.check_seconds
            self._jobs_unchecked = 0
        self._log_change(before)
        self._say()

    def _check(self, link: Link, vitals: Vitals) -> HealthCheck:
        return check(link, vitals, self._orders.battery, self._orders.min_free_bytes)

    def _log_change(self, before: Sighting) -> None:
        now = self._sighting
        if now.state is not before.state:
            why = f": {now.fault.message} {now.fault.advice}" if now.fault else ""
            _LOG.info("%s is %s%s", now.serial, now.state, why)
        if now.health is not before.health and now.health is not None and not now.health.passed:
            failed = "; ".join(f"{item.name}: {item.detail}" for item in now.health.items if not item.passed)
            _LOG.warning("%s failed its health check: %s", now.serial, failed)

    def _work(self, lease: Lease) -> None:
        serial = self._orders.serial
        _LOG.info("%s: job %s (%s)", serial, lease.job_id, lease.job.kind)
        started = time.monotonic()
        held = Held(job_id=lease.job_id, epoch=lease.epoch, secret=lease.secret)
        self._say(self._orders.job_seconds, held)
        with LeaseKeeper(self._tools.client, lease) as keeper:
            self._keeper = keeper
            outcome = self._attempt(lease, keeper)
            self._keeper = None
        self._jobs_unchecked += 1
        if keeper.lost:
            self._say()
            return
        _LOG.info("%s: job %s: %s in %.1f s", serial, lease.job_id, outcome.kind, time.monotonic() - started)
        result = LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=outcome)
        self._tools.outbox.put(lease.job_id, result)
        self._delivered.clear()
        self._say(outcome=True)
        self._delivered.wait(_DELIVERY_SECONDS)  # until then the server takes the phone for busy

    def _attempt(self, lease: Lease, keeper: LeaseKeeper) -> JobOutcome:
        fault: Fault
        try:
            if keeper.lost or self._stop.is_set():
                return Failure(fault=_stopped())
            files = self._tools.cache.files_of(lease.job.program)
            with Link.connect(self._orders.serial, self._orders.key_path, _CONNECT_SECONDS) as link:
                keeper.guard(link)
                bench = Bench(
                    link, self._tools.runners, serial=lease.serial, process_seconds=self._orders.process_seconds
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
