"""Messages and streams of the ADB protocol, on adb-shell with its defects mended from outside.

adb-shell 0.4.4 ignores short sends, leaves Nagle's algorithm on, takes the end of a connection for silence, and adds
up every byte in Python. Here one `sendall` carries header and payload, the end raises, the version that makes
checksums needless is offered, and every wait is bounded by one deadline. adb-shell has no types: this module is the
only one that touches it.
"""

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from adb_shell import constants, exceptions
from adb_shell.adb_device import _AdbIOManager
from adb_shell.adb_message import AdbMessage
from adb_shell.hidden_helpers import _AdbTransactionInfo

from device_agent.adb.errors import (
    DeadlineExceeded,
    PhoneUnauthorised,
    PhoneUnreachable,
)
from device_agent.adb.keys import Signer

_SKIP_CHECKSUM = 0x01000001
_HEADER = struct.Struct("<6I")
_CLOSING_SECONDS = 5.0
_FOREVER = float("inf")
_PROTOCOL_ERRORS = (
    exceptions.InvalidChecksumError,
    exceptions.InvalidCommandError,
    exceptions.InvalidResponseError,
    exceptions.AdbTimeoutError,
)


class _Socket:
    """A TCP connection whose every operation ends by `until` (time.monotonic seconds)."""

    def __init__(self, host: str, port: int, configure: Callable[[socket.socket], None] | None) -> None:
        self._address = (host, port)
        self._configure = configure
        self._socket: socket.socket | None = None
        self.until = 0.0

    @property
    def closed(self) -> bool:
        """Whether there is no connection."""
        return self._socket is None

    def _ready(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket

    def connect(self, _timeout: float | None) -> None:
        """Open the connection."""
        self._socket = socket.create_connection(self._address, timeout=max(0.001, self.until - time.monotonic()))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._configure is not None:
            self._configure(self._socket)

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

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._ready().sendall(data)

    def receive(self, length: int) -> bytes:
        """Exactly `length` bytes; ConnectionResetError at the end of the connection."""
        data = bytearray(length)
        view, filled = memoryview(data), 0
        while filled < length:
            count = self._ready().recv_into(view[filled:])
            if count == 0:
                raise ConnectionResetError("the phone closed the connection")
            filled += count
        return bytes(data)


class _Messages(_AdbIOManager):  # type: ignore[misc] # an untyped base
    """adb-shell's handshake and packet store over our socket."""

    def __init__(self, transport: _Socket) -> None:
        super().__init__(transport)
        self._sums = True

    def _send(self, msg: Any, adb_info: Any) -> None:  # noqa: ARG002 - adb-shell's signature
        data = bytes(msg.data)
        first = _SKIP_CHECKSUM if msg.command == constants.ID_TO_WIRE[constants.CNXN] else msg.arg0
        total = sum(data) & 0xFFFFFFFF if self._sums else 0
        self._transport.send(_HEADER.pack(msg.command, first, msg.arg1, len(data), total, msg.magic) + data)

    def _read_packet_from_device(self, adb_info: Any) -> tuple[bytes, int, int, bytes]:  # noqa: ARG002
        code, arg0, arg1, length, total, magic = _HEADER.unpack(self._transport.receive(_HEADER.size))
        command = constants.WIRE_TO_ID.get(code)
        if command is None or magic != code ^ 0xFFFFFFFF or length > constants.MAX_ADB_DATA:
            raise exceptions.InvalidCommandError(f"unknown message {code.to_bytes(4, 'little')!r}")
        if command == constants.CNXN and arg0 >= _SKIP_CHECKSUM:
            self._sums = False
        data = self._transport.receive(length)
        if self._sums and sum(data) & 0xFFFFFFFF != total:
            raise exceptions.InvalidChecksumError("a damaged message")
        return command, arg0, arg1, data


class Stream:
    """One service of the phone, open for reading and writing; `write` returns when the phone took the data."""

    def __init__(self, wire: "Wire", info: Any) -> None:
        self._wire = wire
        self._info = info
        self._received = bytearray()
        self._ended = False

    def _take(self, *commands: bytes) -> bytes:
        command, _, _, data = self._wire.receive(list(commands), self._info)
        if command == constants.WRTE:
            self._received += data
            self._wire.send(constants.OKAY, self._info)
        elif command == constants.CLSE and not self._ended:
            self._ended = True
            self._wire.send(constants.CLSE, self._info)
        return command

    def read(self) -> bytes:
        """What came, at least one byte; b"" at the end of the stream."""
        while not self._received and not self._ended:
            self._take(constants.WRTE, constants.CLSE)
        data = bytes(self._received)
        self._received.clear()
        return data

    def read_exactly(self, length: int) -> bytes:
        """`length` bytes; PhoneUnreachable when the stream ends before."""
        while len(self._received) < length and not self._ended:
            self._take(constants.WRTE, constants.CLSE)
        if len(self._received) < length:
            raise PhoneUnreachable("The phone ended the transfer early.", advice="Try again.")
        data = bytes(self._received[:length])
        del self._received[:length]
        return data

    @property
    def answered(self) -> bool:
        """Whether the phone has said something that was not read yet, or hung up."""
        return bool(self._received) or self._ended

    def write(self, data: bytes) -> None:
        """Send at most `Wire.max_payload` bytes and wait until the phone took them."""
        if self._ended:
            return
        self._wire.send(constants.WRTE, self._info, data)
        while not self._ended and self._take(constants.OKAY, constants.WRTE, constants.CLSE) != constants.OKAY:
            pass

    def close(self) -> None:
        """End the stream; the phone kills what it ran for it."""
        if self._ended or self._wire.closed:
            return
        self._wire.limit(_CLOSING_SECONDS)
        self._wire.send(constants.CLSE, self._info)
        while not self._ended:
            command, _, _, _ = self._wire.receive([constants.CLSE, constants.WRTE, constants.OKAY], self._info)
            self._ended = command == constants.CLSE


class Wire:
    """One authenticated connection. Any failure closes it, for what follows on a broken stream is noise."""

    def __init__(
        self,
        host: str,
        port: int,
        configure: Callable[[socket.socket], None] | None = None,
    ) -> None:
        """`configure` is given the connected socket: a test makes its buffers small there."""
        self._name = f"{host}:{port}"
        self._socket = _Socket(host, port, configure)
        self._messages = _Messages(self._socket)
        self._last_id = 0
        self._prompted = False
        self.max_payload = constants.MAX_LEGACY_ADB_DATA

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._socket.closed

    def limit(self, seconds: float) -> None:
        """From now on everything ends within `seconds`."""
        self._socket.until = time.monotonic() + seconds

    def connect(self, signer: Signer, seconds: float) -> None:
        """Open and authenticate.

        Raises:
            PhoneUnauthorised: nobody accepted our key within `seconds`.
            PhoneUnreachable, DeadlineExceeded: as their names say.
        """
        self.limit(seconds)
        info = _AdbTransactionInfo(None, None, _FOREVER, _FOREVER, None)
        self._prompted = False
        _, limit = self._guard(self._messages.connect, b"fulcrum", [signer], _FOREVER, self._prompt, info)
        self.max_payload = min(limit, constants.MAX_ADB_DATA)

    def _prompt(self, _device: Any) -> None:
        self._prompted = True

    def open(self, service: bytes) -> Stream:
        """Start a service of the phone, such as b"sync:"."""
        self._last_id += 1
        info = _AdbTransactionInfo(self._last_id, None, _FOREVER, _FOREVER, None)
        self.send(constants.OPEN, info, service + b"\0")
        command, info.remote_id, _, _ = self.receive([constants.OKAY, constants.CLSE], info, zeros=True)
        if command == constants.CLSE:
            raise PhoneUnreachable(f"{self._name} does not offer {service.split(b':')[0].decode()}.")
        return Stream(self, info)

    def send(self, command: bytes, info: Any, data: bytes = b"") -> None:
        """Send one message of a stream."""
        self._guard(
            self._messages.send,
            AdbMessage(command, info.local_id, info.remote_id or 0, data),
            info,
        )

    def receive(self, commands: list[bytes], info: Any, zeros: bool = True) -> tuple[bytes, int, int, bytes]:
        """The next message of a stream that is one of `commands`."""
        found: tuple[bytes, int, int, bytes] = self._guard(self._messages.read, commands, info, zeros)
        return found

    def close(self) -> None:
        """Drop the connection, from any thread; the phone kills what it ran for us."""
        self._socket.close()

    def _guard(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except TimeoutError:
            self.close()
            if self._prompted and call == self._messages.connect:
                raise PhoneUnauthorised(
                    f"{self._name} does not know this host's key.",
                    advice="Unlock the phone and accept 'Allow USB debugging?' (tick 'Always allow').",
                ) from None
            raise DeadlineExceeded(f"{self._name} did not answer in time.") from None
        except _PROTOCOL_ERRORS as error:
            self.close()
            raise PhoneUnreachable(
                f"{self._name} does not speak ADB over plain TCP: {error}.",
                advice="Wireless debugging needs TLS; use `adb tcpip 5555` over a cable instead.",
            ) from None
        except exceptions.DeviceAuthError as error:
            self.close()
            raise PhoneUnauthorised(f"{self._name} refused this host's key: {error}.") from None
        except OSError as error:
            self.close()
            raise PhoneUnreachable(
                f"{self._name} is not reachable: {error}.",
                advice="Is the phone on, and its ADB port open?",
            ) from None
