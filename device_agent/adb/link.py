"""A Link: one authenticated connection to one phone, and what can be done over it.

Only TCP is wired here. A link over USB or through an adb server differs in how its `Wire` is made, so it becomes
another way to construct a Link, not another Link.
"""

import re
import shlex
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self

from device_agent.adb import sync
from device_agent.adb.errors import (
    AddressInvalid,
    CommandFailed,
    DeadlineExceeded,
    PhoneUnreachable,
    PushFailed,
)
from device_agent.adb.keys import Signer
from device_agent.adb.wire import Stream, Wire

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.\-]{0,100}):(?P<port>[0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHELL_HEADER = struct.Struct("<BI")
_OUT, _ERR, _EXIT = 1, 2, 3
_BATCH = 100

_HASHES = (
    'for f; do [ -d "${f%/*}" ] || mkdir -p "${f%/*}"; '
    'if [ -f "$f" ]; then h=$(sha256sum < "$f"); echo "${h%% *}"; else echo -; fi; done'
)
_SETTLE = """while [ $# -gt 0 ]; do
h=$(sha256sum < "$3.part")
if [ "${h%% *}" = "$1" ] && chmod "$2" "$3.part" && mv -f "$3.part" "$3"; then :; else rm -f "$3.part"; echo "$3"; fi
shift 3
done"""


@dataclass(frozen=True)
class ShellResult:
    """How a command ended; 128 + N is death by signal N."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")


@dataclass(frozen=True)
class Push:
    """A file that the phone should have: where, with which content, and with which permission bits."""

    source: Path | bytes
    remote: str
    sha256: str
    mode: int = 0o644


@dataclass
class Running:
    """A command while it runs: iterate over its lines of output; the rest is known once they are exhausted."""

    stream: Stream
    exit_code: int = -1
    stderr: bytearray = field(default_factory=bytearray)

    def chunks(self) -> Iterator[bytes]:
        """Standard output as it comes. PhoneUnreachable when the phone hangs up before the exit code."""
        packet = bytearray()
        while data := self.stream.read():
            packet += data
            while len(packet) >= _SHELL_HEADER.size:
                kind, length = _SHELL_HEADER.unpack_from(packet)
                if len(packet) < _SHELL_HEADER.size + length:
                    break
                body = bytes(packet[_SHELL_HEADER.size : _SHELL_HEADER.size + length])
                del packet[: _SHELL_HEADER.size + length]
                if kind == _OUT:
                    yield body
                elif kind == _ERR:
                    self.stderr += body
                elif kind == _EXIT:
                    self.exit_code = body[0]
        if self.exit_code < 0:
            raise PhoneUnreachable("The phone ended a command without its exit code.", advice="Try again.")

    def __iter__(self) -> Iterator[str]:
        """Lines of standard output, without their ends."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")


class Link:
    """One connection; its methods may be called from several threads, one at a time. After an error of the connection
    (unreachable, deadline) it is closed for good: connect anew.
    """

    def __init__(self, address: str, wire: Wire) -> None:
        self.address = address
        self._wire = wire
        self._lock = threading.RLock()

    @classmethod
    def connect(
        cls,
        address: str,
        key_path: Path,
        deadline: float = 10.0,
        *,
        configure: Callable[[socket.socket], None] | None = None,
    ) -> Self:
        """Connect to `host:port` within `deadline` seconds.

        Raises:
            AddressInvalid, PhoneUnreachable, PhoneUnauthorised, DeadlineExceeded: as their names say.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise AddressInvalid(
                f"{address!r} is not an address of a phone.",
                advice="Give it as host:port.",
            )
        wire = Wire(match["host"], int(match["port"]), configure)
        wire.connect(Signer(key_path), deadline)
        return cls(address, wire)

    def close(self) -> None:
        """Drop the connection, from any thread; a call in progress raises, and the phone kills what it ran."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def running(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Iterator[Running]:
        """Start a program and read it line by line; leaving the block early kills it.

        `argv` is quoted for the phone's shell, which replaces itself by the program. `timeout` in seconds is for the
        whole run.
        """
        with self._lock:
            self._wire.limit(timeout)
            exports = "".join(f"export {_checked(name)}={shlex.quote(value)}; " for name, value in (env or {}).items())
            stream = self._wire.open(f"shell,v2,raw:{exports}exec {shlex.join(argv)}".encode())
            try:
                yield Running(stream)
            finally:
                stream.close()

    def shell(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> ShellResult:
        """Run a program to its end.

        Raises:
            DeadlineExceeded: it did not end within `timeout` seconds; it is killed.
            PhoneUnreachable: the connection broke.
        """
        with self.running(argv, timeout, env) as run:
            stdout = b"".join(run.chunks())
            return ShellResult(run.exit_code, stdout, bytes(run.stderr))

    def script(self, source: str, *arguments: str, timeout: float) -> str:
        """Run lines of shell with positional arguments; their standard output.

        Raises:
            CommandFailed: the exit code was not 0.
        """
        done = self.shell(["sh", "-c", source, "sh", *arguments], timeout)
        if done.exit_code != 0:
            reason = done.stderr.decode(errors="replace").strip()[-500:]
            raise CommandFailed(f"A command on {self.address} ended with exit code {done.exit_code}: {reason}")
        return done.text

    def getprop(self, name: str, timeout: float = 10.0) -> str:
        """One system property; "" when it is not set."""
        return self.shell(["getprop", name], timeout).text.rstrip("\n")

    def push(
        self,
        local: Path | bytes,
        remote: str,
        sha256: str,
        mode: int = 0o644,
        timeout: float = 600.0,
    ) -> int:
        """Make one file be there, see `push_all`; the bytes sent, 0 when the phone had it."""
        return sum(self.push_all([Push(local, remote, sha256, mode)], timeout).values())

    def push_all(self, files: Sequence[Push], timeout: float = 600.0) -> dict[str, int]:
        """Make files be there with their content verified by the phone's own sha256sum; remote path to bytes sent.

        What the phone has is not sent again (its mode is left as it is). A file appears under its name only once it
        is whole.

        Raises:
            PushFailed (PhoneFull): the phone could not write a file, or it arrived damaged.
            DeadlineExceeded: all of it took longer than `timeout` seconds.
        """
        until = time.monotonic() + timeout
        with self._lock:
            present = self._hashes([file.remote for file in files], until)
            missing = [file for file, found in zip(files, present, strict=True) if found != file.sha256]
            sent = {file.remote: 0 for file in files}
            for file in missing:
                self._wire.limit(self._left(until))
                sent[file.remote] = sync.send(self._wire, file.source, f"{file.remote}.part", file.mode)
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                words = [word for file in batch for word in (file.sha256, f"{file.mode:o}", file.remote)]
                damaged = self.script(_SETTLE, *words, timeout=self._left(until)).split()
                if damaged:
                    raise PushFailed(
                        f"{PurePosixPath(damaged[0]).name} arrived damaged.",
                        advice="Check the cable.",
                    )
        return sent

    def _hashes(self, remotes: Sequence[str], until: float) -> list[str]:
        found: list[str] = []
        for start in range(0, len(remotes), _BATCH):
            batch = remotes[start : start + _BATCH]
            found += self.script(_HASHES, *batch, timeout=self._left(until)).split()
        return found

    def _left(self, until: float) -> float:
        left = until - time.monotonic()
        if left <= 0:
            self.close()
            raise DeadlineExceeded(f"{self.address} did not take the files in time.")
        return left

    def pull(self, remote: str, local: Path, timeout: float = 600.0) -> int:
        """Copy a file of the phone to `local`; its length in bytes.

        Raises:
            PullFailed: the phone could not read it.
        """
        with self._lock:
            self._wire.limit(timeout)
            return sync.receive(self._wire, remote, local)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a variable")
    return name
