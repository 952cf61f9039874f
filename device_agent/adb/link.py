"""A Link: one way to one phone, and what can be done over it. Every command for a phone passes `Link.running`."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from device_agent.adb import sync
from device_agent.adb.channel import Channel
from device_agent.adb.errors import CommandFailed, DeadlineExceeded, PushFailed
from device_agent.adb.route import open_channel
from device_agent.adb.shell import Running, ShellResult, Word, command_line
from device_agent.adb.tcp import Configure

_BATCH_FILES, _BATCH_BYTES = 100, 8_000  # of paths, in one command

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
class Push:
    """A file that the phone should have: where, with which content, and with which permission bits."""

    source: Path | bytes
    remote: str
    sha256: str
    mode: int = 0o644


class Link:
    """One connection; its methods may be called from several threads, one at a time. After an error of the connection
    (unreachable, deadline) it is closed for good: connect anew.
    """

    def __init__(self, address: str, channel: Channel) -> None:
        self.address = address
        self._channel = channel
        self._lock = threading.RLock()

    @classmethod
    def connect(
        cls,
        address: str,
        key_path: Path,
        deadline: float = 10.0,
        *,
        on_prompt: Callable[[], None] | None = None,
        configure: Configure | None = None,
    ) -> Self:
        """Connect within `deadline` seconds to `host:port`, to the serial of a USB phone, or to one of an adb server.

        An adb server that has the phone is gone through; else it is TCP or USB, by what the address looks like.
        `on_prompt` is called, once, when the phone does not know the key and shows its prompt; whoever has a human at
        hand gives a deadline of a minute then.

        Raises:
            AddressInvalid, PhoneUnreachable, PhoneUnauthorised, PhoneUnpaired, PhoneBusy, PhoneForbidden,
            LibusbMissing, AdbServerFailed, KeyUnusable, DeadlineExceeded: as their names say.
        """
        return cls(address, open_channel(address, key_path, deadline, on_prompt, configure))

    def close(self) -> None:
        """Drop the connection, from any thread; a call in progress raises, and the phone kills what it ran."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def running(self, argv: Sequence[Word], timeout: float, env: Mapping[str, str] | None = None) -> Iterator[Running]:
        """Start a program and read it line by line; leaving the block early ends it, and all that it started.

        `timeout` in seconds is for the whole run, and holds on the phone too should the connection be lost; see
        `command_line` for the rest.
        """
        service = b"shell,v2,raw:" + command_line(argv, env or {}, timeout)
        with self._lock, closing(self._channel.open(service, time.monotonic() + timeout)) as stream:
            yield Running(stream)

    def shell(self, argv: Sequence[Word], timeout: float, env: Mapping[str, str] | None = None) -> ShellResult:
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
            present = [found for batch in _batches(files) for found in self._hashes(batch, until)]
            missing = [file for file, found in zip(files, present, strict=True) if found != file.sha256]
            sent = {file.remote: 0 for file in files}
            for file in missing:
                sent[file.remote] = sync.send(self._channel, file.source, f"{file.remote}.part", file.mode, until)
            for batch in _batches(missing):
                words = [word for file in batch for word in (file.sha256, f"{file.mode:o}", file.remote)]
                damaged = self.script(_SETTLE, *words, timeout=self._left(until)).split()
                if damaged:
                    raise PushFailed(
                        f"{PurePosixPath(damaged[0]).name} arrived damaged.",
                        advice="Check the cable.",
                    )
        return sent

    def _hashes(self, files: Sequence[Push], until: float) -> list[str]:
        return self.script(_HASHES, *(file.remote for file in files), timeout=self._left(until)).split()

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
            return sync.receive(self._channel, remote, local, time.monotonic() + timeout)


def _batches(files: Sequence[Push]) -> Iterator[list[Push]]:
    batch: list[Push] = []
    for file in files:
        paths = sum(len(other.remote) for other in batch) + len(file.remote)
        if batch and (len(batch) >= _BATCH_FILES or paths > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
