"""Files over ADB's sync service, version 1 (AOSP: adb/file_sync_protocol.h), which every Android speaks."""

import struct
from collections.abc import Iterator
from pathlib import Path

from device_agent.adb.errors import PhoneFull, PullFailed, PushFailed
from device_agent.adb.wire import Stream, Wire

_CHUNK = 64 * 1024
_PACKET = struct.Struct("<4sI")
_REGULAR = 0o100000
_FULL = ("No space left", "Disk quota exceeded", "ENOSPC")


def _packets(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), _CHUNK):
            part = source[start : start + _CHUNK]
            yield _PACKET.pack(b"DATA", len(part)) + part
    else:
        with source.open("rb") as file:
            while part := file.read(_CHUNK):
                yield _PACKET.pack(b"DATA", len(part)) + part


def _verdict(stream: Stream, remote: str) -> None:
    kind, length = _PACKET.unpack(stream.read_exactly(_PACKET.size))
    if kind == b"OKAY":
        return
    reason = stream.read_exactly(length).decode(errors="replace") if kind == b"FAIL" else f"unexpected {kind!r}"
    if any(word in reason for word in _FULL):
        raise PhoneFull(
            f"No room on the phone for {remote}: {reason}.",
            advice="Free space on the phone.",
        )
    raise PushFailed(f"The phone refused {remote}: {reason}.")


def send(wire: Wire, source: Path | bytes, remote: str, mode: int) -> int:
    """Write a file on the phone; the number of bytes sent.

    The phone's refusal is noticed between two payloads, not only at the end.

    Raises:
        PushFailed: the phone could not write it.
    """
    stream = wire.open(b"sync:")
    name = f"{remote},{_REGULAR | mode}".encode()
    buffer = bytearray(_PACKET.pack(b"SEND", len(name)) + name)
    sent = 0
    try:
        for packet in _packets(source):
            if len(buffer) + len(packet) > wire.max_payload:
                _flush(stream, buffer, wire.max_payload)
            buffer += packet
            sent += len(packet) - _PACKET.size
            if stream.answered:
                break
        buffer += _PACKET.pack(b"DONE", 0)
        if not stream.answered:
            _flush(stream, buffer, wire.max_payload)
        _verdict(stream, remote)
    finally:
        stream.close()
    return sent


def _flush(stream: Stream, buffer: bytearray, limit: int) -> None:
    for start in range(0, len(buffer), limit):
        stream.write(bytes(buffer[start : start + limit]))
    buffer.clear()


def receive(wire: Wire, remote: str, local: Path) -> int:
    """Read a file of the phone into `local`, which appears only when it is whole; its length in bytes.

    Raises:
        PullFailed: the phone could not read it.
    """
    stream = wire.open(b"sync:")
    scratch = local.with_name(local.name + ".part")
    try:
        stream.write(_PACKET.pack(b"RECV", len(remote.encode())) + remote.encode())
        with scratch.open("wb") as file:
            while True:
                kind, length = _PACKET.unpack(stream.read_exactly(_PACKET.size))
                if kind == b"DONE":
                    break
                data = stream.read_exactly(length)
                if kind != b"DATA":
                    raise PullFailed(f"The phone did not give {remote}: {data.decode(errors='replace')}.")
                file.write(data)
            size = file.tell()
        scratch.replace(local)
    finally:
        scratch.unlink(missing_ok=True)
        stream.close()
    return size
