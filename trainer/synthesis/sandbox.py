"""Code that a tutor wrote, run in a process of its own. It may be anything, so it may do next to nothing.

Guaranteed, or it is not run at all: it writes no file and reads none but the interpreter's libraries; it makes no TCP
connection, and signals nobody outside; it has so many seconds of processor and of time, so much memory; it starts no
process or thread; it sees nothing of the environment. That takes Linux with Landlock: 5.13 and later where `unshare`
is allowed its namespaces, else 6.12. Started as root, it runs as nobody.

Not guaranteed: that the kernel has no holes; UDP and Unix sockets, where `unshare` is not allowed; and that code which
looks for its tests in the frames of the interpreter is told from code that passes them. That it merely ends early,
whatever its exit status, is told.
"""

import json
import os
import secrets
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import resources

from trainer.errors import TrainerError

_UNSHARE = ["unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
_START_SECONDS = 5.0  # of an interpreter on a busy machine, beyond what the code has
_OUTPUT = 1 << 20
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/dev/null", "/dev/urandom", "/dev/zero")


class SandboxError(TrainerError):
    """This host cannot shut a process in."""

    slug = "no-sandbox"


@dataclass(frozen=True)
class Ran:
    """Whether the code came to its end, and if not, its last words."""

    passed: bool
    why: str = ""


def run(code: str, *, seconds: float = 5.0, memory: int = 512 << 20) -> Ran:
    """Run Python with its standard library; see the module.

    Raises:
        SandboxError: this host gives no such guarantees.
    """
    if not _shuts():
        raise SandboxError(
            "this host cannot shut code in: that takes Landlock, and `unshare` or Linux 6.12",
            advice="run it on such a host, or leave the filter `code` out",
        )
    return _run(code, seconds, memory)


def _run(code: str, seconds: float, memory: int, prefix: list[str] | None = None) -> Ran:
    seal = secrets.token_hex(16)
    limits = {
        "RLIMIT_CPU": max(1, round(seconds)),
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": _OUTPUT,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.realpath(sys.base_prefix) + "/lib"}
    unshare = _prefix() if prefix is None else prefix
    readable = [*sorted(paths), *_LIBRARIES]
    given = {"code": code, "seal": seal, "readable": readable, "limits": limits, "unshared": bool(unshare)}
    cell = (resources.files("trainer.synthesis") / "cell.py").read_text(encoding="utf-8")
    python = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", cell]
    command = [*unshare, *python]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            cwd="/",
            env={},
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(given).encode(), timeout=seconds + _START_SECONDS)
        except subprocess.TimeoutExpired:
            return Ran(False, "out of time")
        finally:
            process.kill()  # whoever unshared takes its children with it, and without that there are none
            process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
        lines = said.read().decode(errors="replace").strip().splitlines()
    if process.returncode == 0 and lines and lines[-1] == seal:
        return Ran(True)
    words = [line for line in lines if not line.startswith("unshare:")]
    return Ran(False, words[-1][:200] if words else f"ended early, with {process.returncode}")


@cache
def _prefix() -> list[str]:
    """The command that unshares, where it is allowed; without root, in a namespace of users as well."""
    command = _UNSHARE if os.geteuid() == 0 else [*_UNSHARE, "--user"]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return command if tried.returncode == 0 else []


@cache
def _shuts() -> bool:
    return sys.platform == "linux" and _run("", 5.0, 512 << 20).passed
