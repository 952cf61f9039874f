"""A bad network: a TCP proxy that throttles, delays, cuts, and swallows."""

import contextlib
import socket
import struct
import threading
import time
from typing import Self

_STEP = 16 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Proxy:
    """Between its own loopback port and `target`. `rate` is in bytes/s and `delay` in seconds, each way.

    `after` bytes towards the target, `then` ("cut" or "swallow") happens; both can be called at any time too.
    """

    def __init__(
        self, target: str, *, rate: float = 0, delay: float = 0, after: int | None = None, then: str = ""
    ) -> None:
        host, port = target.split(":")
        self._target = (host, int(port))
        self._rate, self._delay = rate, delay
        self._left, self._then = after, then
        self._swallowing = threading.Event()
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.happened = threading.Event()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.close()
        self.cut()

    def _start(self, call: object, *arguments: object) -> None:
        threading.Thread(target=call, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for one, other, forth in ((client, server, True), (server, client, False)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._start(self._pump, one, other, forth)

    def cut(self) -> None:
        """Both ends see a reset."""
        _reset(*self._sockets)

    def swallow(self) -> None:
        """From now on nothing gets through, and neither end is told."""
        self._swallowing.set()

    def _pump(self, source: socket.socket, sink: socket.socket, forth: bool) -> None:
        try:
            while data := source.recv(_STEP):
                time.sleep(self._delay + (len(data) / self._rate if self._rate else 0))
                if self._swallowing.is_set():
                    self._ended.wait()  # it reads no more either: the sender's buffers fill, as on a dead link
                    return
                sink.sendall(data)
                if forth:
                    self._count(len(data))
            if not self._swallowing.is_set():
                sink.shutdown(socket.SHUT_WR)
        except OSError:  # one end is gone: so is the other
            _reset(source, sink)

    def _count(self, length: int) -> None:
        if self._left is None or self.happened.is_set():
            return
        self._left -= length
        if self._left <= 0:
            self.happened.set()
            getattr(self, self._then)()


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.shutdown(socket.SHUT_RD)  # wakes a pump that reads it
            end.close()
