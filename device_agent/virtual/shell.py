"""Commands: host processes under /bin/sh, each in a group of its own, killed when its stream ends before it does."""

import asyncio
import contextlib
import ctypes
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable

from device_agent.virtual.connection import Stream
from device_agent.virtual.root import PhoneRoot

_PACKET = struct.Struct("<BI")
_STDIN, _OUT, _ERR, _EXIT, _CLOSE_STDIN = 0, 1, 2, 3, 4
_READ = 64 * 1024
_PR_SET_PDEATHSIG = 1
_GONE_SECONDS = 2.0
_C = ctypes.CDLL(None)


async def serve_shell(root: PhoneRoot, stream: Stream, service: str) -> None:
    """`shell:CMD` and `exec:CMD` (merged output, no code), `shell,v2,...:CMD` (packets and an exit code).

    Without a command the shell reads its commands from the client, unless that is a terminal.
    """
    head, _, command = service.partition(":")
    options = head.split(",")
    packets = "v2" in options[1:]
    if not command and "raw" not in options:
        message = b"a virtual phone has no terminal: give a command, or commands on standard input\n"
        await stream.write(_packet(_ERR, message) + _packet(_EXIT, b"\1") if packets else message)
        return
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        *(("-c", root.rewrite(command)) if command else ()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if packets else asyncio.subprocess.STDOUT,
        cwd=root.directory,
        env=root.environment(),
        start_new_session=True,
        preexec_fn=_die_with_daemon,
    )
    feeding = asyncio.create_task(_feed(process, stream, packets, root.rewrite if not command else None))
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
            await _reap(process)


def _die_with_daemon() -> None:
    """A daemon that is killed leaves no runner behind."""
    if hasattr(_C, "prctl"):
        _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Wait for a killed process. asyncio's own `wait` never returns while output is left unread."""
    with contextlib.suppress(TimeoutError):  # its pipes may be held by a process that left the group
        await asyncio.wait_for(process.communicate(), _GONE_SECONDS)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _packet(kind: int, body: bytes) -> bytes:
    return _PACKET.pack(kind, len(body)) + body


async def _pump(source: asyncio.StreamReader | None, stream: Stream, kind: int | None) -> None:
    while source is not None and (data := await source.read(_READ)):
        await stream.write(data if kind is None else _packet(kind, data))


async def _feed(
    process: asyncio.subprocess.Process, stream: Stream, packets: bool, rewrite: Callable[[str], str] | None
) -> None:
    """The client's bytes to the process's standard input; with `rewrite` they are lines of shell."""
    sink = process.stdin
    if sink is None:
        return
    line = b""
    with contextlib.suppress(EOFError, ConnectionError):
        async for body in _input(stream, packets):
            if rewrite is not None:
                whole, newline, line = (line + body).rpartition(b"\n")
                body = _encode(rewrite(_decode(whole + newline)))
            sink.write(body)
            await sink.drain()
        if rewrite is not None:
            sink.write(_encode(rewrite(_decode(line))))
    sink.close()


async def _input(stream: Stream, packets: bool) -> AsyncIterator[bytes]:
    while True:
        kind = _STDIN
        if packets:
            kind, length = _PACKET.unpack(await stream.read_exactly(_PACKET.size))
            body = await stream.read_exactly(length)
        else:
            body = await stream.read()
        if kind == _CLOSE_STDIN or (not packets and not body):
            return
        if kind == _STDIN:
            yield body


def _decode(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
