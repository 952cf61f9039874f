"""One client's connection to a virtual phone: the handshake, and its streams (AOSP: adb/protocol.txt)."""

import asyncio
import contextlib
import logging
import secrets
import struct
from collections.abc import Awaitable, Callable

from device_agent.adb.keys import decode_public_key, signed_by
from device_agent.virtual.root import PhoneRoot

_HEADER = struct.Struct("<6I")
_VERSION, _SKIP_CHECKSUM, _OLDEST = 0x01000001, 0x01000001, 0x01000000
_LOG = logging.getLogger(__name__)
MAX_PAYLOAD = 1024 * 1024
_TOKEN, _SIGNATURE, _PUBLIC_KEY = 1, 2, 3
_PROMPT_POLL_SECONDS = 0.1
FEATURES = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "sendrecv_v2")

Service = Callable[["Stream", str], Awaitable[None]]


def _code(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = map(_code, (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))


class ProtocolError(Exception):
    """The client said something that the protocol does not allow; its connection is dropped."""


class Stream:
    """One service opened by the client. A payload is acknowledged once it is read: that is the flow control."""

    def __init__(self, connection: "Connection", local: int, remote: int) -> None:
        self._connection = connection
        self._ids = (local, remote)
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._writing = asyncio.Lock()
        self._rest = bytearray()
        self._ended = False

    def feed(self, data: bytes | None) -> None:
        """Something came from the client; None is its end."""
        self._incoming.put_nowait(data)

    def acknowledge(self) -> None:
        """The client took our last payload."""
        self._taken.set()

    async def read(self) -> bytes:
        """The next payload; b"" at the end."""
        if self._rest:
            data = bytes(self._rest)
            self._rest.clear()
            return data
        if self._ended:
            return b""
        payload = await self._incoming.get()
        if payload is None:
            self._ended = True
            return b""
        await self._connection.send(OKAY, *self._ids)
        return payload

    async def read_exactly(self, length: int) -> bytes:
        """`length` bytes; EOFError when the stream ends before."""
        data = bytearray()
        while len(data) < length:
            part = await self.read()
            if not part:
                raise EOFError
            data += part
        self._rest[:0] = data[length:]
        return bytes(data[:length])

    async def write(self, data: bytes) -> None:
        """Send, and return once the client took all of it."""
        async with self._writing:
            step = self._connection.max_payload
            for start in range(0, len(data), step):
                self._taken.clear()
                await self._connection.send(WRTE, *self._ids, data[start : start + step])
                await self._taken.wait()


class Connection:
    """Authenticates a client, then runs a task per stream."""

    def __init__(
        self,
        root: PhoneRoot,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        serve: Service,
        accept_first_key: bool,
    ) -> None:
        self._root = root
        self._reader = reader
        self._writer = writer
        self._serve = serve
        self._accept_first_key = accept_first_key
        self._sums = True
        self._authorised = False
        self._token = b""
        self._proofs: list[tuple[bytes, bytes]] = []
        self._peer_version = _OLDEST
        self._prompt: asyncio.Task[None] | None = None
        self._streams: dict[int, tuple[int, Stream, asyncio.Task[None]]] = {}
        self._last_id = 0
        self.max_payload = 4096

    async def run(self) -> None:
        """Speak until the client goes away or breaks the protocol; then stop all that ran for it."""
        try:
            while True:
                await self._dispatch(*await self._receive())
        except (asyncio.IncompleteReadError, ConnectionError, ProtocolError):
            pass
        finally:
            tasks = [task for _, _, task in self._streams.values()]
            if self._prompt is not None:
                tasks.append(self._prompt)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.close()

    def drop(self) -> None:
        """Cut the client off; `run` ends."""
        self._writer.transport.abort()

    async def send(self, command: int, arg0: int, arg1: int, data: bytes = b"") -> None:
        """Send one message."""
        total = sum(data) & 0xFFFFFFFF if self._sums else 0
        self._writer.write(_HEADER.pack(command, arg0, arg1, len(data), total, command ^ 0xFFFFFFFF) + data)
        await self._writer.drain()

    async def _receive(self) -> tuple[int, int, int, bytes]:
        header = await self._reader.readexactly(_HEADER.size)
        command, arg0, arg1, length, total, magic = _HEADER.unpack(header)
        if magic != command ^ 0xFFFFFFFF or length > MAX_PAYLOAD:
            raise ProtocolError("not a message of ADB")
        data = await self._reader.readexactly(length)
        if self._sums and sum(data) & 0xFFFFFFFF != total:
            raise ProtocolError("damaged")
        return command, arg0, arg1, data

    async def _dispatch(self, command: int, arg0: int, arg1: int, data: bytes) -> None:
        if command == CNXN:
            await self._greet(arg0, arg1)
        elif command == AUTH:
            await self._authenticate(arg0, data)
        elif not self._authorised:
            raise ProtocolError("a service before the key")
        elif command == OPEN:
            await self._open(arg0, data)
        elif command == CLSE:
            await self._closed(arg1)
        elif arg1 in self._streams:
            stream = self._streams[arg1][1]
            if command == WRTE:
                stream.feed(data)
            elif command == OKAY:
                stream.acknowledge()

    async def _greet(self, version: int, max_payload: int) -> None:
        self._peer_version = version
        self._proofs.clear()
        self._sums = True
        self.max_payload = min(max_payload, MAX_PAYLOAD) or 4096
        self._authorised = False
        await self._challenge()

    async def _challenge(self) -> None:
        self._token = secrets.token_bytes(20)
        await self.send(AUTH, _TOKEN, 0, self._token)

    def _accepted(self) -> list[bytes]:
        lines = self._root.keys.read_bytes().splitlines() if self._root.keys.exists() else []
        return [line.split()[0] for line in lines if line.split()]

    async def _authenticate(self, kind: int, data: bytes) -> None:
        if kind == _SIGNATURE and self._token:
            token, self._token = self._token, b""
            if any(signed_by(key, token, data) for key in self._accepted()):
                await self._welcome()
            else:
                self._proofs.append((token, data))
                await self._challenge()
        elif kind == _PUBLIC_KEY:
            await self._present(data.rstrip(b"\0").strip())

    async def _present(self, line: bytes) -> None:
        """A key nobody knows: like a phone with its prompt on the screen, wait until the key is in the list.

        A public key is no secret, so only a client that signed one of our tokens with it before is let in.
        """
        key = line.split()[0] if line.split() else b""
        try:
            decode_public_key(key)
        except ValueError:
            raise ProtocolError("not a key") from None
        if not any(signed_by(key, *proof) for proof in self._proofs):
            raise ProtocolError("a key that its bearer cannot use")
        if self._accept_first_key and not self._accepted():
            self._root.keys.write_bytes(line.splitlines()[0] + b"\n")
            self._root.keys.chmod(0o600)
        if self._prompt is not None:
            self._prompt.cancel()
        self._prompt = asyncio.create_task(self._await_acceptance(key))

    async def _await_acceptance(self, key: bytes) -> None:
        while key not in self._accepted():
            await asyncio.sleep(_PROMPT_POLL_SECONDS)
        await self._welcome()

    async def _welcome(self) -> None:
        version = min(self._peer_version, _VERSION)
        self._sums = version < _SKIP_CHECKSUM
        self._authorised = True
        names = ("ro.product.name", "ro.product.model", "ro.product.device")
        facts = "".join(f"{name}={self._root.property(name)};" for name in names)
        await self.send(CNXN, version, MAX_PAYLOAD, f"device::{facts}features={','.join(FEATURES)}".encode())

    async def _open(self, remote: int, data: bytes) -> None:
        self._last_id += 1
        local = self._last_id
        stream = Stream(self, local, remote)
        service = data.rstrip(b"\0").decode(errors="surrogateescape")
        task = asyncio.create_task(self._run(stream, local, remote, service))
        self._streams[local] = (remote, stream, task)

    async def _run(self, stream: Stream, local: int, remote: int, service: str) -> None:
        try:
            kind = service.split(":", 1)[0].split(",")[0]
            if kind not in ("shell", "exec", "sync"):
                self._streams.pop(local, None)
                await self.send(CLSE, 0, remote)
                return
            await self.send(OKAY, local, remote)
            await self._serve(stream, service)
        except (EOFError, ConnectionError):
            pass
        except Exception:
            _LOG.exception("service %s", service.split(":")[0])
        if self._streams.pop(local, None) is not None:
            with contextlib.suppress(ConnectionError):
                await self.send(CLSE, local, remote)

    async def _closed(self, local: int) -> None:
        found = self._streams.pop(local, None)
        if found is None:
            return
        remote, stream, task = found
        stream.feed(None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.send(CLSE, local, remote)
