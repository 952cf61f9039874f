"""Files over ADB's sync service, version 1 (AOSP: adb/file_sync_protocol.h), which every Android speaks."""

import io
from contextlib import closing
from pathlib import Path
from struct import Struct

from device_agent.adb.channel import Channel, Stream
from device_agent.adb.errors import PhoneFull, PullFailed, PushFailed

_CHUNK = 64 * 1024  # SYNC_DATA_MAX
_PACKET = Struct("<4sI")
_REGULAR = 0o100000
_FULL = ("No space left", "Disk quota exceeded", "ENOSPC")


def _verdict(stream: Stream, remote: str) -> None:
    kind, length = _PACKET.unpack(stream.read_exactly(_PACKET.size))
    if kind == b"OKAY":
        return
    reason = str(stream.read_exactly(length), errors="replace") if kind == b"FAIL" else f"unexpected {kind!r}"
    if any(word in reason for word in _FULL):
        raise PhoneFull(
            f"No room on the phone for {remote}: {reason}.",
            advice="Free space on the phone.",
        )
    raise PushFailed(f"The phone refused {remote}: {reason}.")


class _Payloads:
    """A file cut into DATA packets, and these into payloads. The next is made while the phone takes the last one."""

    def __init__(self, file: io.FileIO | io.BytesIO, size: int, request: bytes) -> None:
        self._file = file
        self._buffer = bytearray(size)
        self._buffer[: len(request)] = request
        self._filled = len(request)
        self.sent = 0
        self.done = False

    def next(self) -> memoryview:
        """A payload, valid until the next call. The last one, after which `done` is true, ends with DONE."""
        view, at = memoryview(self._buffer), self._filled
        self._filled = 0
        while (room := min(_CHUNK, len(view) - at - _PACKET.size)) > 0:
            start = at + _PACKET.size
            count = self._file.readinto(view[start : start + room])
            _PACKET.pack_into(view, at, b"DATA" if count else b"DONE", count)
            at = start + count
            self.sent += count
            if not count:
                self.done = True
                break
        return view[:at]


def send(channel: Channel, source: Path | bytes, remote: str, mode: int, until: float) -> int:
    """Write a file on the phone; the number of bytes sent.

    The phone's refusal is noticed between two payloads, not only at the end.

    Raises:
        PushFailed (PhoneFull): the phone could not write it.
        DeadlineExceeded: it took longer than `until` (time.monotonic seconds).
    """
    name = f"{remote},{_REGULAR | mode}".encode()
    with (
        io.BytesIO(source) if isinstance(source, bytes) else source.open("rb", buffering=0) as file,
        closing(channel.open(b"sync:", until)) as stream,
    ):
        payloads = _Payloads(file, channel.max_payload, _PACKET.pack(b"SEND", len(name)) + name)
        while not payloads.done and not stream.answered:
            stream.write(payloads.next())
        _verdict(stream, remote)
    return payloads.sent


def receive(channel: Channel, remote: str, local: Path, until: float) -> int:
    """Read a file of the phone into `local`, which appears only when it is whole; its length in bytes.

    Raises:
        PullFailed: the phone could not read it.
        DeadlineExceeded: it took longer than `until` (time.monotonic seconds).
    """
    scratch = local.with_name(local.name + ".part")
    try:
        with closing(channel.open(b"sync:", until)) as stream, scratch.open("wb") as file:
            stream.write(_PACKET.pack(b"RECV", len(remote.encode())) + remote.encode())
            while (packet := _PACKET.unpack(stream.read_exactly(_PACKET.size)))[0] == b"DATA":
                file.write(stream.read_exactly(packet[1]))
            if packet[0] != b"DONE":
                reason = str(stream.read_exactly(packet[1]), errors="replace")
                raise PullFailed(f"The phone did not give {remote}: {reason}.")
            size = file.tell()
        scratch.replace(local)
    finally:
        scratch.unlink(missing_ok=True)
    return size
