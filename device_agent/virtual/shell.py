"""Commands: host processes under /bin/sh, each in a group of its own, killed when its stream ends before it does."""

import asyncio
import contextlib
import os
import signal
import struct

from device_agent.virtual.connection import Stream
from device_agent.virtual.root import PhoneRoot

_PACKET = struct.Struct("<BI")
_STDIN, _OUT, _ERR, _EXIT, _CLOSE_STDIN = 0, 1, 2, 3, 4
_READ = 64 * 1024


async def serve_shell(root: PhoneRoot, stream: Stream, service: str) -> None:
    """`shell:CMD` and `exec:CMD` (merged output, no code), `shell,v2,...:CMD` (packets and an exit code)."""
    head, _, command = service.partition(":")
    options = head.split(",")
    packets = "v2" in options[1:]
    if not command:
        message = b"a virtual phone has no interactive shell: give a command\n"
        await stream.write(_packet(_ERR, message) + _packet(_EXIT, b"\1") if packets else message)
        return
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        root.rewrite(command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if packets else asyncio.subprocess.STDOUT,
        cwd=root.directory,
        env=root.environment(),
        start_new_session=True,
    )
    feeding = asyncio.create_task(_feed(process, stream, packets))
    finished = False
    try:
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(_pump(process.stdout, stream, _OUT if packets else None))
            if packets:
                pumps.create_task(_pump(process.stderr, stream, _ERR))
        code = await process.wait()
        finished = True
        if packets:
            await stream.write(_packet(_EXIT, bytes([code if code >= 0 else 128 - code])))
    finally:
        feeding.cancel()
        if not finished:  # afterwards the group's number may be another's
            _kill_group(process.pid)
            await process.wait()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _packet(kind: int, body: bytes) -> bytes:
    return _PACKET.pack(kind, len(body)) + body


async def _pump(source: asyncio.StreamReader | None, stream: Stream, kind: int | None) -> None:
    while source is not None and (data := await source.read(_READ)):
        await stream.write(data if kind is None else _packet(kind, data))


async def _feed(process: asyncio.subprocess.Process, stream: Stream, packets: bool) -> None:
    """The client's bytes to the process's standard input."""
    sink = process.stdin
    if sink is None:
        return
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            kind, body = _STDIN, b""
            if packets:
                kind, length = _PACKET.unpack(await stream.read_exactly(_PACKET.size))
                body = await stream.read_exactly(length)
            else:
                body = await stream.read()
            if kind == _CLOSE_STDIN or (not packets and not body):
                break
            if kind == _STDIN:
                sink.write(body)
                await sink.drain()
    sink.close()
