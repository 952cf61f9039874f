"""The daemon: listens on loopback, and gives every client a connection."""

import asyncio
import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_agent.contracts import Blame, FulcrumError
from device_agent.virtual.connection import Connection, Stream
from device_agent.virtual.root import PhoneRoot
from device_agent.virtual.shell import serve_shell
from device_agent.virtual.sync import serve_sync


class NotLoopback(FulcrumError):
    """A virtual phone runs what it is told, so nobody outside this host may tell it."""

    blame = Blame.USER
    slug = "virtual-not-loopback"


class PortTaken(FulcrumError):
    """The port of a virtual phone cannot be listened on."""

    blame = Blame.USER
    slug = "virtual-port"


class VirtualPhone:
    """One phone in one directory.

    `accept_first_key` accepts, as the prompt on a phone would, the first key that is presented while the phone knows
    none; every other key waits until it is added to the phone's list of keys.
    """

    def __init__(
        self, directory: Path, *, host: str = "127.0.0.1", port: int = 0, accept_first_key: bool = False
    ) -> None:
        """Prepare the directory.

        Raises:
            NotLoopback: `host` is not a loopback address.
            RootUnusable: see `PhoneRoot`.
        """
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise NotLoopback(
                f"A virtual phone does not listen on {host}.", advice="Use 127.0.0.1; forward the port if you must."
            )
        self.root = PhoneRoot(directory)
        self._host = host
        self._port = port
        self._accept_first_key = accept_first_key
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Future[None], Connection] = {}

    @property
    def address(self) -> str:
        """host:port, once started."""
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; the port is known afterwards.

        Raises:
            PortTaken: it is in use.
        """
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=4 * 1024 * 1024)
        except OSError as error:
            raise PortTaken(
                f"{self.address} cannot be used: {error.strerror}.", advice="Choose another port."
            ) from None
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Drop every connection and kill what ran for it."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections.values():
            connection.drop()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self.root, reader, writer, self._serve, self._accept_first_key)
        task = asyncio.ensure_future(connection.run())
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _serve(self, stream: Stream, service: str) -> None:
        if service.startswith("sync:"):
            await serve_sync(self.root, stream)
        else:
            await serve_shell(self.root, stream, service)


@contextmanager
def running(directory: Path, *, port: int = 0, accept_first_key: bool = False) -> Iterator[VirtualPhone]:
    """A virtual phone in a thread of this process, for as long as the block lasts."""
    phone = VirtualPhone(directory, port=port, accept_first_key=accept_first_key)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="virtual-phone", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(phone.start(), loop).result(timeout=60)
        yield phone
    finally:
        asyncio.run_coroutine_threadsafe(phone.stop(), loop).result(timeout=60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
