"""The processes that the demo starts: a server, a virtual phone, an agent. Each is an ordinary `fulcrum` command."""

import ctypes
import json
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


class HouseholdFailed(FulcrumError):
    """One of the processes ended by itself."""

    blame, slug = Blame.INFRASTRUCTURE, "process-ended"


class Household:
    """Starts processes, watches over them, and takes them down in reverse order."""

    def __init__(self, home: Path) -> None:
        self._home = home
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
        file = self._home / "ports.json"
        known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        if name in known and not _free(known[name]):
            raise HouseholdFailed(
                f"Port {known[name]}, which the {name} of this demo used, is taken.",
                advice="Is another demo running? End it, or start afresh with --fresh.",
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
