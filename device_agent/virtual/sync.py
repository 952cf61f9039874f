"""Files: the sync service, versions 1 and 2 (AOSP: adb/file_sync_protocol.h), inside the phone's directory."""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO

from device_agent.virtual.connection import Stream
from device_agent.virtual.root import PhoneRoot

_PACKET = struct.Struct("<4sI")
_STAT1 = struct.Struct("<4s3I")
_STAT2 = struct.Struct("<4sI2Q4IQ3q")
_DENT1 = struct.Struct("<4s4I")
_DENT2 = struct.Struct("<4sI2Q4IQ3qI")
_CHUNK = 64 * 1024
_LONGEST_NAME = 1024


async def serve_sync(root: PhoneRoot, stream: Stream) -> None:
    """Answer requests until QUIT or the end."""
    session = _Session(root, stream)
    requests: dict[bytes, Callable[[str], Awaitable[None]]] = {
        b"STAT": session.stat1,
        b"STA2": lambda name: session.stat2(b"STA2", name, follow=True),
        b"LST2": lambda name: session.stat2(b"LST2", name, follow=False),
        b"LIST": lambda name: session.list(name, version=1),
        b"LIS2": lambda name: session.list(name, version=2),
        b"SEND": session.send1,
        b"SND2": session.send2,
        b"RECV": session.receive,
        b"RCV2": session.receive2,
    }
    while True:
        kind, length = _PACKET.unpack(await stream.read_exactly(_PACKET.size))
        if kind == b"QUIT":
            return
        if kind not in requests or length > _LONGEST_NAME:
            await session.fail(f"unknown command {kind!r}")
            return
        name = (await stream.read_exactly(length)).decode(errors="surrogateescape")
        await requests[kind](name)


@dataclass
class _Session:
    root: PhoneRoot
    stream: Stream

    async def fail(self, reason: str) -> None:
        """Say why not."""
        message = reason.encode()
        await self.stream.write(_PACKET.pack(b"FAIL", len(message)) + message)

    def _look(self, name: str, follow: bool) -> os.stat_result:
        path = self.root.locate(name)
        return path.stat() if follow else path.lstat()

    async def stat1(self, name: str) -> None:
        """Mode, size (32 bits) and time; zeros when it is not there."""
        found = (0, 0, 0)
        with contextlib.suppress(OSError):
            info = self._look(name, follow=False)
            found = (info.st_mode, info.st_size & 0xFFFFFFFF, int(info.st_mtime))
        await self.stream.write(_STAT1.pack(b"STAT", *found))

    async def stat2(self, kind: bytes, name: str, *, follow: bool) -> None:
        """All of stat(2), or its errno."""
        try:
            await self.stream.write(_STAT2.pack(kind, *_stat2_fields(self._look(name, follow))))
        except OSError as error:
            await self.stream.write(_STAT2.pack(kind, error.errno or 5, *([0] * 10)))

    async def list(self, name: str, *, version: int) -> None:
        """The entries of a directory."""
        answer = bytearray()
        with contextlib.suppress(OSError):
            for entry in sorted(os.scandir(self.root.locate(name)), key=lambda entry: entry.name):
                raw, info = os.fsencode(entry.name), entry.stat(follow_symlinks=False)
                if version == 1:
                    fields = (info.st_mode, info.st_size & 0xFFFFFFFF, int(info.st_mtime), len(raw))
                    answer += _DENT1.pack(b"DENT", *fields) + raw
                else:
                    answer += _DENT2.pack(b"DNT2", *_stat2_fields(info), len(raw)) + raw
        shape = _DENT1 if version == 1 else _DENT2
        await self.stream.write(bytes(answer) + b"DONE" + bytes(shape.size - 4))

    async def send1(self, name: str) -> None:
        """SEND "path,mode"."""
        path, _, mode = name.rpartition(",")
        await self._store(path, int(mode) if mode.isdecimal() else 0o644)

    async def send2(self, name: str) -> None:
        """SND2 path, then its mode and flags."""
        kind, mode, flags = struct.unpack("<4sII", await self.stream.read_exactly(12))
        if kind != b"SND2" or flags & 0x0F:
            await self.fail("compression is not offered")
            raise EOFError
        await self._store(name, mode)

    async def _store(self, name: str, mode: int) -> None:
        try:
            place = self.root.locate(name, writing=True)
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            await self._refuse(f"couldn't create file: {error.strerror}")
            return
        scratch = place.with_name(f".{place.name[:100]}.{token_hex(4)}")
        refuse = self._refuse  # until its data has come, the rest of it has to be passed over
        try:
            with scratch.open("xb") as file:
                mtime = await self._take_data(file)
            refuse = self.fail
            if stat.S_ISLNK(mode):
                self._make_link(scratch, place)
            else:
                scratch.chmod(stat.S_IMODE(mode) & 0o777)
                os.utime(scratch, (mtime, mtime))
            scratch.replace(place)
        except ConnectionError:
            raise
        except OSError as error:
            scratch.unlink(missing_ok=True)
            await refuse(f"write failed: {error.strerror}")
        else:
            await self.stream.write(_PACKET.pack(b"OKAY", 0))
        finally:
            scratch.unlink(missing_ok=True)

    def _make_link(self, scratch: Path, place: Path) -> None:
        """A symbolic link, whose target came as its content; it may not leave the phone's directory."""
        target = os.fsdecode(scratch.read_bytes().rstrip(b"\0"))
        if not (place.parent / target).resolve().is_relative_to(self.root.directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        scratch.unlink()
        scratch.symlink_to(target)

    async def _take_data(self, file: IO[bytes]) -> int:
        """Write what comes until DONE; the file's time."""
        room = self.root.room()
        while True:
            kind, value = _PACKET.unpack(await self.stream.read_exactly(_PACKET.size))
            if kind == b"DONE":
                return int(value)
            if kind != b"DATA" or value > _CHUNK:
                raise EOFError
            data = await self.stream.read_exactly(value)
            if room is not None and (room := room - len(data)) < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.write(data)

    async def _refuse(self, reason: str) -> None:
        """Say why not, and pass over the data of clients that read their answer only at the end."""
        await self.fail(reason)
        while True:
            kind, value = _PACKET.unpack(await self.stream.read_exactly(_PACKET.size))
            if kind == b"DONE":
                return
            if kind != b"DATA" or value > _CHUNK:
                raise EOFError
            await self.stream.read_exactly(value)

    async def receive2(self, name: str) -> None:
        """RCV2 path, then flags."""
        _, flags = _PACKET.unpack(await self.stream.read_exactly(_PACKET.size))
        if flags & 0x0F:
            await self.fail("compression is not offered")
            raise EOFError
        await self.receive(name)

    async def receive(self, name: str) -> None:
        """The content of a file."""
        try:
            path = self.root.locate(name)
            with path.open("rb") as file:
                await self._give(file)
        except OSError as error:
            await self.fail(f"open failed: {error.strerror}")

    async def _give(self, file: IO[bytes]) -> None:
        batch = bytearray()
        while part := file.read(_CHUNK):
            batch += _PACKET.pack(b"DATA", len(part)) + part
            if len(batch) >= 8 * _CHUNK:
                await self.stream.write(bytes(batch))
                batch.clear()
        await self.stream.write(bytes(batch) + _PACKET.pack(b"DONE", 0))


def _stat2_fields(info: os.stat_result) -> tuple[int, ...]:
    return (
        0,
        info.st_dev,
        info.st_ino,
        info.st_mode,
        info.st_nlink,
        info.st_uid,
        info.st_gid,
        info.st_size,
        int(info.st_atime),
        int(info.st_mtime),
        int(info.st_ctime),
    )
