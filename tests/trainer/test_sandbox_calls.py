"""What Landlock and limits leave open, tried from within the sandbox: the kernel is asked, and says no."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from trainer.sandbox import run

_NOBODY = 65534


@pytest.fixture
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file that belongs to whom the sandbox runs as, where that user can reach it."""
    folder = Path("/tmp") / f"fulcrum-theirs-{os.getpid()}"
    folder.mkdir(mode=0o755)
    file = folder / "kept"
    file.write_text("kept")
    os.utime(file, (5, 5))
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, _NOBODY, _NOBODY)
    yield file
    file.unlink()
    folder.rmdir()


_ATTACKS = {
    "rights": "import os\nos.chmod(THEIRS, 0o777)",
    "times": "import os\nos.utime(THEIRS, (9, 9))",
    "an attribute": "import os\nos.setxattr(THEIRS, 'user.fulcrum', b'x')",
    "truncation": "import os\nos.truncate(THEIRS, 0)",
    "opening to truncate": "import os\nos.open(THEIRS, os.O_RDONLY | os.O_TRUNC)",
    "a datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "an abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0' + NAME)",
    "shared memory": "import ctypes\nassert ctypes.CDLL(None).shmget(0, 1 << 26, 0o1600) >= 0",
    "a file in memory": "import os\nos.memfd_create('x')",
    "a namespace of users": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "a process by ctypes": "import ctypes\nassert ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0",
    "others' limits": "import resource\nresource.prlimit(1, resource.RLIMIT_CPU, (1, 1))",
    "own limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
    "who opens what": "import ctypes\nassert ctypes.CDLL(None).inotify_init1(0) >= 0",
    "calls of another machine": "import ctypes\nassert ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 2, 0) >= 0",
    "calls to come": "import ctypes\nassert ctypes.CDLL(None).syscall(452, -100, THEIRS.encode(), 0o777, 0) == 0",
    "every process": "import os\nos.kill(-1, 9)",
    "the processor, signals ignored": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "a broken pointer": "import ctypes\nctypes.string_at(0)",
    "no descriptors": "import os\nos.closerange(0, 64)",
    "no text": "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 99)\nassert False",
    "half a pair": "raise ValueError('\\ud800')",
}  # fmt: skip


@pytest.mark.parametrize("attack", _ATTACKS)
def test_what_code_tries_fails_and_leaves_no_trace(attack: str, theirs: Path) -> None:
    with ExitStack() as open_:
        udp = open_.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix = open_.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"\0fulcrum-{os.getpid()}")
        unix.listen()
        code = _ATTACKS[attack].replace("THEIRS", repr(str(theirs))).replace("NAME", f"'fulcrum-{os.getpid()}'")
        ran = run(code.replace("PORT", str(udp.getsockname()[1])), seconds=1, memory=256 << 20)
        for each in (udp, unix):
            each.setblocking(False)
        assert not ran.passed
        with pytest.raises(BlockingIOError):
            udp.recv(1)
        with pytest.raises(BlockingIOError):
            unix.accept()
    found = theirs.stat()
    assert (theirs.read_text(), found.st_mtime, found.st_mode & 0o777) == ("kept", 5, 0o640)


def test_what_honest_code_needs_is_there() -> None:
    code = """
import asyncio, decimal, json, multiprocessing, random, re, resource, socket, sqlite3, subprocess, tempfile
async def later():
    await asyncio.sleep(0.01)
    return 3
assert asyncio.run(later()) == 3
assert resource.getrlimit(resource.RLIMIT_AS)[0] > 0
sqlite3.connect(":memory:").execute("create table t (a)")
"""
    ran = run(code)
    assert ran.passed, ran.why
