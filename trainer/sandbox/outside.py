"""Code that others wrote, shut in. It may be anything, so it may do next to nothing.

Guaranteed, or it is not run at all: it writes no file, nor a file's rights or times, and reads none but the
interpreter's libraries; it opens no socket, and signals nobody outside; it has so many seconds of processor and of
time, so much memory; it starts no process or thread; it sees nothing of the environment. That takes Linux on x86-64 or
arm64 with seccomp and Landlock: 5.13 and later where `unshare` is allowed its namespaces, else 6.12. Started as root,
it runs as nobody.

Its tests run in a second process, shut in alike, and only call it (`calls.py`): whatever it does or prints, it passes
by returning what they want, or not at all.

Not guaranteed: that the kernel has no holes; that it learns not whether a path exists; and without tests, that code
which writes to the descriptors it finds is told from code that came to its end.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import IO, Any

from trainer.errors import TrainerError

_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
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


def program(text: str) -> str:
    """The Python in an answer: its last fenced block, or all of it."""
    blocks = _FENCED.findall(text)
    return str(blocks[-1]) if blocks else text


def run(code: str, tests: str = "", *, seconds: float = 5.0, memory: int = 512 << 20) -> Ran:
    """Run Python with its standard library, then `tests`, to which it is known what `code` defines; see the module.

    Each of the two has `seconds` of processor, and both together a little more of time; each has `memory` bytes.

    Raises:
        SandboxError: this host gives no such guarantees.
    """
    if not _shuts():
        raise SandboxError(
            "this host cannot shut code in: that takes seccomp, Landlock, and `unshare` or Linux 6.12",
            advice="run it on such a host, or use nothing of the kind `code` or `programs`",
        )
    return _run(code, tests, seconds, memory)


def _run(code: str, tests: str, seconds: float, memory: int, prefix: list[str] | None = None) -> Ran:
    unshare = _prefix() if prefix is None else prefix
    seal = secrets.token_hex(16)
    with ExitStack() as held:
        ends = held.enter_context(ExitStack())
        asked, told = _pipe(ends), _pipe(ends)
        said, verdict = _file(held), _file(held)
        given = {"limits": _limits(seconds, memory), "readable": _readable(), "unshared": bool(unshare)}
        answer = _cell(held, unshare, given | {"code": code, "seal": "", "pipe": (asked[0], told[1])}, said)
        judge = _cell(held, unshare, given | {"code": tests, "seal": seal, "pipe": (told[0], asked[1])}, verdict)
        ends.close()  # theirs alone from here on: each hears when the other is gone
        try:
            judge.wait(timeout=seconds + _START_SECONDS)
        except subprocess.TimeoutExpired:
            return Ran(False, "out of time")
        lines = _lines(verdict)
        if judge.returncode == 0 and lines and lines[-1] == seal:
            return Ran(True)
        if not lines or lines[-1].startswith("EOFError"):  # of no interest is where the tests were when it died
            answer.wait()
            lines = _lines(said)
            return Ran(False, lines[-1][:200] if lines else f"ended early, with {answer.returncode}")
        return Ran(False, lines[-1][:200])


def _cell(held: ExitStack, unshare: list[str], given: dict[str, Any], said: IO[bytes]) -> "subprocess.Popen[bytes]":
    """A process with what `cell.py` reads, which ends with `held` at the latest."""
    package = resources.files("trainer.sandbox")
    source = "\n".join((package / name).read_text(encoding="utf-8") for name in ("calls.py", "cell.py"))
    stdin = _file(held)
    stdin.write(json.dumps(given).encode())
    stdin.seek(0)
    python = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", source]
    process = subprocess.Popen(
        [*unshare, *python],
        stdin=stdin,
        stdout=said,
        stderr=said,
        pass_fds=given["pipe"],
        cwd="/",
        env={},
        start_new_session=True,
    )
    held.callback(process.wait)
    held.callback(process.kill)  # whoever unshared takes its children with it, and without that there are none
    return process


def _file(held: ExitStack) -> IO[bytes]:
    return held.enter_context(tempfile.TemporaryFile())  # `held` closes it


def _pipe(held: ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        held.callback(os.close, end)
    return ends


def _limits(seconds: float, memory: int) -> dict[str, int]:
    return {
        "RLIMIT_CPU": max(1, round(seconds)),
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": _OUTPUT,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }


def _readable() -> list[str]:
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.realpath(sys.base_prefix) + "/lib"}
    return [*sorted(paths), *_LIBRARIES]


def _lines(said: IO[bytes]) -> list[str]:
    """The last that was printed, without what `unshare` says of a killed child."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
    lines = said.read().decode(errors="replace").strip().splitlines()
    return [line for line in lines if not line.startswith("unshare:")]


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
    return sys.platform == "linux" and _run("", "", 5.0, 512 << 20).passed
