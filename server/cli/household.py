"""The processes that the demo starts: a server, a virtual phone, an agent. Each is an ordinary `fulcrum` command."""

import ctypes
import fcntl
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from device_agent.contracts import Blame, FulcrumError

_PR_SET_PDEATHSIG = 1
_GOODBYE_SECONDS = 15
_LOCK, _PORTS = "demo.lock", "ports.json"


class HomeTaken(FulcrumError):
    """The directory is another demo's, or none of ours."""

    blame, slug = Blame.USER, "home-taken"


class HouseholdFailed(FulcrumError):
    """One of the processes ended by itself."""

    blame, slug = Blame.INFRASTRUCTURE, "process-ended"


class Household:
    """Starts processes, watches over them, and takes them down in reverse order."""

    def __init__(self, home: Path, fresh: bool = False) -> None:
        """Take `home` for this process alone; `fresh` empties it.

        Raises:
            HomeTaken: a demo runs there, or `fresh` would delete what no demo made.
        """
        self._home = home
        if fresh and home.exists() and any(home.iterdir()) and not any((home / f).exists() for f in (_LOCK, _PORTS)):
            raise HomeTaken(f"{home} holds what no demo made; --fresh would delete it.", advice="Give another --home.")
        home.mkdir(parents=True, exist_ok=True)
        self._lock = (home / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeTaken(
                f"A demo runs in {home} already.", advice="End it with Ctrl-C, or give this one another --home."
            ) from None
        for path in home.iterdir() if fresh else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        self._running: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        (home / "logs").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process, _ in reversed(self._running):
            process.terminate()
            try:
                process.wait(_GOODBYE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def port(self, name: str, preferred: int) -> int:
        """A free port, the same at every start: what a port names (a phone's serial) must outlive us.

        Raises:
            HouseholdFailed: the port of an earlier start is taken by someone else now.
        """
        file = self._home / _PORTS
        known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        if name in known and not _free(known[name]):
            raise HouseholdFailed(
                f"Port {known[name]}, which the {name} of this demo used, is taken.",
                advice=f"End what listens there, or delete {file}: the phone is then another, and measured anew.",
            )
        if name not in known:
            known[name] = preferred if _free(preferred) else _any_port()
            file.write_text(json.dumps(known))
        return known[name]

    def start(self, name: str, *arguments: str) -> None:
        """Run `fulcrum ARGUMENTS`; what it prints goes to logs/NAME.log."""
        log = self._home / "logs" / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", "from server.cli import main; main()", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours: we take them down in order
                preexec_fn=_die_with_parent,
            )
        self._running.append((name, process, log))

    def check(self) -> None:
        """Raises HouseholdFailed when a process has ended."""
        for name, process, log in self._running:
            if process.poll() is not None:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise HouseholdFailed(
                    f"The {name} ended with status {process.returncode}:\n{tail}", advice=f"See {log}."
                )

    def wait_until(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """Poll until `holds`; raises HouseholdFailed when a process ends or the time is up."""
        deadline = time.monotonic() + seconds
        while not holds():
            self.check()
            if time.monotonic() > deadline:
                raise HouseholdFailed(
                    f"{what} did not happen within {seconds:.0f} s.", advice=f"See {self._home}/logs."
                )
            time.sleep(0.2)


def _die_with_parent() -> None:
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
