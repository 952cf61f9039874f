"""AOSP's adbd 34 (Debian trixie's package, fetched by `make adbd`) as a process in this namespace."""

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Self

from bench_examples import eventually

from device_agent.adb import Link

PACKAGES = Path(__file__).parents[3] / ".cache" / "adbd"
PORT = 5599
ADDRESS = f"127.0.0.1:{PORT}"

_C = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SOCKET_CALL = {"x86_64": 41, "aarch64": 198}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _confined() -> None:
    """In the child: die with the tests, and open no AF_VSOCK socket. The daemon listens on one too, and these pass the
    walls of a network namespace. A classic BPF program, see seccomp(2): it looks at the call's number, then at its
    first argument.
    """
    load, equal, give, allow = 0x20, 0x15, 0x06, 0x7FFF0000
    refuse = 0x00050000 | errno.EAFNOSUPPORT
    steps = (
        (load, 0, 0, 0),
        (equal, 0, 3, _SOCKET_CALL[os.uname().machine]),
        (load, 0, 0, 16),
        (equal, 0, 1, socket.AF_VSOCK),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    )
    code = b"".join(struct.pack("<HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _C.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _C.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0):
        os._exit(99)


def alone() -> bool:
    """Whether this network namespace has no way out: its only interface is the loopback."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


class RealDaemon:
    """The daemon; `kill` and `start` are a phone's reboot."""

    address = ADDRESS

    def __init__(self) -> None:
        assert alone(), "this daemon has no authentication: it is for a network namespace of its own"
        assert PACKAGES.exists(), "`make adbd` fetches the daemon"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        libraries = next(PACKAGES.glob("usr/lib/*-linux-gnu"))
        loader = next(libraries.glob("ld-linux*.so.*"))
        program = PACKAGES / "usr/lib/android-sdk/platform-tools/adbd"
        self._process = subprocess.Popen(
            [str(loader), "--library-path", f"{libraries}:{libraries}/android", str(program)],
            env={"PATH": os.environ["PATH"], "ADBD_PORT": str(PORT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_confined,
        )
        eventually(self._listens)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the daemon ended with {self._process.returncode}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", PORT)) == 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def link(self, key: Path, seconds: float = 30) -> Link:
        return Link.connect(self.address, key, seconds)
