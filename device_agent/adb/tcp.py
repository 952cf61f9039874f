"""A TCP connection with a deadline, whole sends and an end that raises: what adb-shell's own transport lacks."""

import select
import socket
import time
from collections.abc import Callable

from device_agent.adb.channel import Data

_SCRATCH = 256 * 1024
_LONGEST_WAIT = 3600.0  # seconds; poll(2) takes no more than 24 days
Configure = Callable[[socket.socket], None]


class TcpTransport:
    """A connection whose every operation ends by `until` (time.monotonic seconds), or raises TimeoutError.

    The socket is tried first and waited for only if it has to be: at hundreds of MB/s the calls count.
    """

    def __init__(self, host: str, port: int, configure: Configure | None = None) -> None:
        """`configure` is given the connected socket: a test makes its buffers small there."""
        self._address = (host, port)
        self._configure = configure
        self._socket: socket.socket | None = None
        self.name = f"{host}:{port}"
        self.until = 0.0
        self._scratch = bytearray(_SCRATCH)

    @property
    def closed(self) -> bool:
        """Whether there is no connection."""
        return self._socket is None

    def connect(self, _timeout: float | None = None) -> None:
        """Open the connection; the argument is adb-shell's and not used."""
        opened = socket.create_connection(self._address, timeout=max(0.001, self.until - time.monotonic()))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        if self._configure is not None:
            self._configure(opened)
        self._socket = opened

    def close(self) -> None:
        """Close, waking whoever waits in another thread."""
        taken, self._socket = self._socket, None
        if taken is not None:
            try:
                taken.shutdown(socket.SHUT_RDWR)
            except OSError:  # the peer was faster
                pass
            finally:
                taken.close()

    def _ready(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        if time.monotonic() >= self.until:  # also of a phone that never stops talking
            raise TimeoutError
        return self._socket

    def _wait(self, waited: socket.socket, event: int, seconds: float) -> bool:
        poll = select.poll()
        try:
            poll.register(waited, event)
        except ValueError:  # closed by another thread just now
            raise ConnectionResetError("the connection is closed") from None
        return bool(poll.poll(min(max(0.0, seconds), _LONGEST_WAIT) * 1000))

    def readable(self) -> bool:
        """Whether something has come, or the end."""
        return self._wait(self._ready(), select.POLLIN, 0)

    def send(self, *parts: Data) -> None:
        """Send all of it."""
        rest = [memoryview(part) for part in parts if part]
        while rest:
            opened = self._ready()
            try:
                sent = opened.sendmsg(rest)
            except BlockingIOError:
                self._wait(opened, select.POLLOUT, self.until - time.monotonic())
                continue
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    def receive(self, length: int) -> bytearray:
        """Exactly `length` bytes; ConnectionResetError at the end of the connection."""
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = self._receive_into(view)
            if count == 0:
                raise ConnectionResetError("the phone closed the connection")
            view = view[count:]
        return data

    def receive_some(self) -> bytes:
        """What has come, at least a byte; b"" at the end."""
        view = memoryview(self._scratch)
        return bytes(view[: self._receive_into(view)])

    def _receive_into(self, view: memoryview) -> int:
        while True:
            opened = self._ready()
            try:
                return opened.recv_into(view)
            except BlockingIOError:
                self._wait(opened, select.POLLIN, self.until - time.monotonic())
