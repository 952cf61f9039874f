"""The agent: a process per phone, and one loop that reports the phones and sends what the outbox holds."""

import fcntl
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from device_agent.adb import ensure_key
from device_agent.agent.cache import ArtifactCache
from device_agent.agent.client import ServerClient, ServerRefused, StaleLease
from device_agent.agent.crew import Crew
from device_agent.agent.finder import Discover, Finder
from device_agent.agent.messages import Orders, Word
from device_agent.agent.outbox import Outbox
from device_agent.contracts import AgentReport, Blame, Failure, FulcrumError, LeaseResult, Route, Success
from device_agent.runner.install import RUNNERS
from device_agent.runner.shelf import open_runners
from device_agent.vitals import BatteryPolicy

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE = 30.0
_STOP_SECONDS = 10.0


class AgentBusy(FulcrumError):
    """Another agent works in this directory."""

    blame = Blame.USER
    slug = "agent-busy"


@dataclass(frozen=True)
class AgentSettings:
    """How an agent runs. `home` holds its key, outbox, artifacts and installed runners; times are seconds.

    A phone's health is checked when the agent first proves it, then after `check_jobs` jobs or `check_seconds`. Its
    process is killed when a job takes longer than `job_seconds`; one that has grown beyond `max_rss_bytes` makes room
    for another between two jobs.
    With `discover`, phones are also looked for every `discover_seconds`.
    """

    server: str
    phones: Sequence[str]
    name: str
    home: Path
    runner: Path | None = None
    token: str | None = None
    probe_seconds: float = 30.0
    process_seconds: float = 900.0
    job_seconds: float = 4 * 3600.0
    max_rss_bytes: int = 1 << 30
    check_jobs: int = 100
    check_seconds: float = 24 * 3600.0
    min_free_bytes: int = 512 << 20
    battery: BatteryPolicy = field(default_factory=BatteryPolicy)
    discover: Discover | None = None
    discover_seconds: float = 15.0


class Agent:
    """One per host, from construction to the end of `run`."""

    def __init__(self, settings: AgentSettings) -> None:
        """Open the home directory and verify the runners.

        Raises:
            AgentBusy: another agent uses this home.
            RunnerBundleError: there is no runner, or one is altered.
        """
        self._settings = settings
        settings.home.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(settings.home / "agent.lock")
        open_runners(settings.runner, settings.home / RUNNERS)
        self._key_path = ensure_key(settings.home / "adbkey")
        self._incarnation = uuid.uuid4().hex
        self._client = ServerClient(settings.server, settings.token)
        self._outbox = Outbox(settings.home / "outbox.db")
        ArtifactCache(settings.home / "artifacts", self._client).sweep()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._crew = Crew(settings.phones, self._orders, self._outbox, self._wake.set)
        self._finder = (
            Finder(settings.discover, settings.discover_seconds, self._wake.set) if settings.discover else None
        )
        self._turn_at = 0.0
        self._failures = 0

    def stop(self) -> None:
        """End `run` soon; from any thread."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Work until `stop`. What earlier incarnations could not deliver goes first.

        The processes of the phones end with the thread that calls this.
        """
        if self._finder is not None:
            self._finder.start()
        try:
            while not self._stop.is_set():
                self._wake.clear()
                found = self._finder.take() if self._finder is not None else None
                if found is not None:
                    self._crew.adopt(found)
                self._crew.tend()
                if self._due():
                    self._turn()
                self._wake.wait(max(0.0, min(self._turn_at, self._crew.next_at) - time.monotonic()))
        finally:
            self._finish()

    def _due(self) -> bool:
        """It is time; or there is news, and the server was there when it was last asked."""
        news = self._crew.changes() or self._crew.waiting
        return time.monotonic() >= self._turn_at or (news and not self._failures)

    def _turn(self) -> None:
        """Report and deliver."""
        try:
            pause = self._report()
            self._deliver()
            self._failures = 0
        except FulcrumError as error:
            pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures, 10))
            self._failures += 1
            _LOG.warning("%s %s Again in %.0f s.", error.message, error.advice, pause)
        self._turn_at = time.monotonic() + pause

    def _report(self) -> float:
        """Tell of the phones; the seconds until the next time."""
        report = AgentReport(
            incarnation=self._incarnation,
            version=_version(),
            host=platform.node() or "unknown",
            phones=self._crew.sightings(),
        )
        answer = self._client.report(self._settings.name, report)
        self._crew.say(Word(poll_seconds=answer.poll_seconds))
        if answer.check:
            self._crew.say(Word(check=True), answer.check)
        return answer.poll_seconds

    def _deliver(self) -> None:
        waiting = self._crew.take_waiting()
        for number, job_id, result in self._outbox.pending():
            self._hand_in(number, job_id, result)
        for child in waiting:
            child.say(Word(delivered=True))

    def _hand_in(self, number: int, job_id: str, result: LeaseResult) -> None:
        try:
            self._client.deliver(job_id, result)
        except StaleLease as error:
            _LOG.warning("the outcome of job %s is not wanted: %s", job_id, error.message)
        except ServerRefused as error:
            _LOG.error("the outcome of job %s was refused: %s %s", job_id, error.message, error.advice)
            if isinstance(result.outcome, Success):
                failure = Failure(fault=error.as_fault())
                self._outbox.replace(number, result.model_copy(update={"outcome": failure}))
                return
        self._outbox.drop(number)

    def _orders(self, serial: str, via: Route | None) -> Orders:
        settings = self._settings
        return Orders(
            agent_pid=os.getpid(),
            serial=serial,
            via=via,
            server=settings.server,
            token=settings.token,
            name=settings.name,
            incarnation=self._incarnation,
            home=settings.home,
            runner=settings.runner,
            key_path=self._key_path,
            probe_seconds=settings.probe_seconds,
            process_seconds=settings.process_seconds,
            job_seconds=settings.job_seconds,
            max_rss_bytes=settings.max_rss_bytes,
            check_jobs=settings.check_jobs,
            check_seconds=settings.check_seconds,
            min_free_bytes=settings.min_free_bytes,
            battery=settings.battery,
        )

    def _finish(self) -> None:
        if self._finder is not None:
            self._finder.stop()
        self._crew.stop(_STOP_SECONDS)
        try:
            self._deliver()
        except FulcrumError as error:
            _LOG.warning("undelivered outcomes stay in the outbox: %s", error.message)
        self._client.close()
        self._outbox.close()
        self._lock.close()


def _lock(path: Path) -> IO[bytes]:
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise AgentBusy(
            f"Another agent works in {path.parent}.", advice="Stop it, or give this one another --home."
        ) from None
    return file


def _version() -> str:
    try:
        return version("fulcrum")
    except PackageNotFoundError:
        return "unknown"
