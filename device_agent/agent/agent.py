"""The agent: a worker per phone, and one loop that reports the phones and sends what the outbox holds."""

import fcntl
import logging
import platform
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from device_agent.adb import ensure_key
from device_agent.agent.cache import ArtifactCache
from device_agent.agent.client import ServerClient, ServerRefused, StaleLease
from device_agent.agent.outbox import Outbox
from device_agent.agent.worker import PhoneWorker, Tools
from device_agent.contracts import AgentReport, Blame, Failure, FulcrumError, LeaseResult, Success
from device_agent.runner.install import RUNNERS
from device_agent.runner.shelf import open_runners

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE = 30.0
_STOP_SECONDS = 10.0


class AgentBusy(FulcrumError):
    """Another agent works in this directory."""

    blame = Blame.USER
    slug = "agent-busy"


@dataclass(frozen=True)
class AgentSettings:
    """How an agent runs. `home` holds its key, outbox, artifacts and installed runners; times are seconds."""

    server: str
    phones: Sequence[str]
    name: str
    home: Path
    runner: Path | None = None
    token: str | None = None
    probe_seconds: float = 30.0
    process_seconds: float = 900.0


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
        self._client = ServerClient(settings.server, settings.token)
        self._outbox = Outbox(settings.home / "outbox.db")
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._delivering = threading.Lock()
        self._incarnation = uuid.uuid4().hex
        tools = Tools(
            client=self._client,
            outbox=self._outbox,
            cache=ArtifactCache(settings.home / "artifacts", self._client),
            runners=open_runners(settings.runner, settings.home / RUNNERS),
            key_path=ensure_key(settings.home / "adbkey"),
            name=settings.name,
            incarnation=self._incarnation,
            probe_seconds=settings.probe_seconds,
            process_seconds=settings.process_seconds,
            deliver=self._deliver,
        )
        self._workers = [PhoneWorker(address, tools) for address in dict.fromkeys(settings.phones)]

    def stop(self) -> None:
        """End `run` soon; from any thread."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Work until `stop`. What earlier incarnations could not deliver goes first."""
        failures = 0
        for worker in self._workers:
            worker.start()
        try:
            while not self._stop.is_set():
                try:
                    pause = self._turn()
                    failures = 0
                except FulcrumError as error:
                    pause = min(_LONGEST_PAUSE, 2.0**failures)
                    failures += 1
                    _LOG.warning("%s %s Again in %.0f s.", error.message, error.advice, pause)
                self._wake.wait(pause)
                self._wake.clear()
        finally:
            self._finish()

    def _turn(self) -> float:
        """Report and deliver; the seconds until the next time."""
        report = AgentReport(
            incarnation=self._incarnation,
            version=_version(),
            host=platform.node() or "unknown",
            phones=tuple(worker.sighting for worker in self._workers),
        )
        pause = self._client.report(self._settings.name, report)
        for worker in self._workers:
            worker.poll_seconds = pause
        self._deliver()
        return pause

    def _deliver(self) -> None:
        with self._delivering:
            for number, job_id, result in self._outbox.pending():
                self._hand_in(number, job_id, result)

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

    def _finish(self) -> None:
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join(_STOP_SECONDS)
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
