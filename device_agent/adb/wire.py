"""Messages and streams of the ADB protocol, on adb-shell with its defects mended from outside.

adb-shell 0.4.4 ignores short sends, leaves Nagle's algorithm on, takes the end of a connection for silence, and adds
up every byte in Python. Here a `Transport` sends header and payload whole and together, its end raises, the version
that makes checksums needless is offered, and every wait is bounded by one deadline. adb-shell has no types: this module
is the only one that touches it.
"""

import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Protocol

from adb_shell import constants, exceptions
from adb_shell.adb_device import _AdbIOManager
from adb_shell.adb_message import AdbMessage
from adb_shell.hidden_helpers import _AdbTransactionInfo

from device_agent.adb.channel import Data, Stream
from device_agent.adb.errors import (
    DeadlineExceeded,
    PhoneUnauthorised,
    PhoneUnpaired,
    PhoneUnreachable,
)
from device_agent.adb.keys import Signer

_SKIP_CHECKSUM = 0x01000001
_OKAY = constants.ID_TO_WIRE[constants.OKAY]
_STLS = int.from_bytes(b"STLS", "little")
_HEADER = Struct("<6I")
_CLOSING_SECONDS = 5.0
_FOREVER = float("inf")
_PROTOCOL_ERRORS = (
    exceptions.InvalidChecksumError,
    exceptions.InvalidCommandError,
    exceptions.InvalidResponseError,
    exceptions.AdbTimeoutError,
)


class Transport(Protocol):
    """A pair of pipes to a phone's daemon. Every operation ends by `until` (TimeoutError); OSError when broken.

    `connect` has adb-shell's signature; its argument is ignored.
    """

    name: str
    until: float

    @property
    def closed(self) -> bool:
        """Whether there is no connection."""

    def connect(self, _timeout: float | None = None) -> None:
        """Open the connection."""

    def close(self) -> None:
        """Close it, from any thread."""

    def send(self, *parts: Data) -> None:
        """Send all of it; a part is a header or a payload."""

    def receive(self, length: int) -> bytearray:
        """Exactly `length` bytes: a header, or a payload."""


class _WantsTls(Exception):
    """The daemon answered with STLS: it is one of wireless debugging."""


class _Messages(_AdbIOManager):  # type: ignore[misc] # an untyped base
    """adb-shell's handshake and packet store over our transport."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._sums = True
        self.awaited = (0, 0)
        self.acknowledged = False

    def _send(self, msg: Any, adb_info: Any) -> None:  # noqa: ARG002 - adb-shell's signature
        first = _SKIP_CHECKSUM if msg.command == constants.ID_TO_WIRE[constants.CNXN] else msg.arg0
        total = sum(msg.data) & 0xFFFFFFFF if self._sums else 0
        header = _HEADER.pack(msg.command, first, msg.arg1, len(msg.data), total, msg.magic)
        self._transport.send(header, msg.data)

    def _read_packet_from_device(self, adb_info: Any) -> tuple[bytes, int, int, bytearray]:  # noqa: ARG002
        code, arg0, arg1, length, total, magic = _HEADER.unpack(self._transport.receive(_HEADER.size))
        if code == _STLS:
            raise _WantsTls
        command = constants.WIRE_TO_ID.get(code)
        if command is None or magic != code ^ 0xFFFFFFFF or length > constants.MAX_ADB_DATA:
            raise exceptions.InvalidCommandError(f"unknown message {code.to_bytes(4, 'little')!r}")
        if command == constants.CNXN and arg0 >= _SKIP_CHECKSUM:
            self._sums = False
        if command == constants.WRTE and (arg0, arg1) == self.awaited:
            # Its reader waits, so the phone may make the next payload ready while this one is on its way.
            self._transport.send(_HEADER.pack(_OKAY, arg1, arg0, 0, 0, _OKAY ^ 0xFFFFFFFF))
            self.acknowledged = True
        data = self._transport.receive(length)
        if self._sums and sum(data) & 0xFFFFFFFF != total:
            raise exceptions.InvalidChecksumError("a damaged message")
        return command, arg0, arg1, data


class _WireStream(Stream):
    """A stream of a Wire. One payload may be on its way to the phone while the next is made ready."""

    def __init__(self, wire: "Wire", info: Any, until: float) -> None:
        super().__init__(until)
        self._wire = wire
        self._info = info
        self._untaken = False

    def _fetch(self) -> None:
        self._take([constants.WRTE, constants.CLSE, constants.OKAY], self.until)

    def _take(self, commands: list[bytes], until: float) -> None:
        command, _, _, data = self._wire.receive(commands, self._info, until)
        if command == constants.OKAY:
            self._untaken = False
        elif command == constants.WRTE:
            if not self._wire.acknowledged:
                self._wire.send(constants.OKAY, self._info, until)
            self._arrived(data)
        elif not self._ended:
            self._ended = True
            self._wire.send(constants.CLSE, self._info, until)

    def write(self, data: Data) -> None:
        """See `Stream.write`; waits until the phone took what was written before."""
        while self._untaken and not self._ended:
            self._fetch()
        if not self._ended:
            self._wire.send(constants.WRTE, self._info, self.until, data)
            self._untaken = True

    def close(self) -> None:
        """See `Stream.close`; a phone that does not confirm it in time costs the connection."""
        if self._ended or self._wire.closed:
            return
        until = time.monotonic() + _CLOSING_SECONDS
        self._wire.send(constants.CLSE, self._info, until)
        while not self._ended:
            command, _, _, _ = self._wire.receive([constants.CLSE, constants.WRTE, constants.OKAY], self._info, until)
            self._ended = command == constants.CLSE


class Wire:
    """One authenticated connection to a phone's daemon. Any failure closes it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._messages = _Messages(transport)
        self._last_id = 0
        self._prompted = False
        self.max_payload = constants.MAX_LEGACY_ADB_DATA

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._transport.closed

    def connect(self, signers: Sequence[Signer], seconds: float, on_prompt: Callable[[], None] | None = None) -> None:
        """Open and authenticate; the first signer's key is the one that the phone is asked to accept.

        `on_prompt` is called when the phone knows none of the keys, and now shows its prompt.

        Raises:
            PhoneUnauthorised: nobody accepted our key within `seconds`.
            PhoneUnpaired: it is a phone with wireless debugging.
            PhoneUnreachable, DeadlineExceeded: as their names say.
        """
        info = _AdbTransactionInfo(None, None, _FOREVER, _FOREVER, None)
        self._prompted = False

        def prompted(_device: object) -> None:
            self._prompted = True
            if on_prompt is not None:
                on_prompt()

        until = time.monotonic() + seconds
        call = self._messages.connect
        _, limit = self._guard(until, call, b"fulcrum", list(signers), _FOREVER, prompted, info)
        self._prompted = False
        self.max_payload = min(limit, constants.MAX_ADB_DATA)

    def open(self, service: bytes, until: float) -> Stream:
        """See `Channel.open`."""
        self._last_id += 1
        info = _AdbTransactionInfo(self._last_id, None, _FOREVER, _FOREVER, None)
        self.send(constants.OPEN, info, until, service + b"\0")
        command, info.remote_id, _, _ = self.receive([constants.OKAY, constants.CLSE], info, until)
        if command == constants.CLSE:
            raise PhoneUnreachable(f"{self._transport.name} does not offer {service.split(b':')[0].decode()}.")
        return _WireStream(self, info, until)

    @property
    def acknowledged(self) -> bool:
        """Whether the phone was told already that the payload received last has been taken."""
        return self._messages.acknowledged

    def send(self, command: bytes, info: Any, until: float, data: Data = b"") -> None:
        """Send one message of a stream."""
        self._guard(until, self._messages.send, AdbMessage(command, info.local_id, info.remote_id or 0, data), info)

    def receive(self, commands: list[bytes], info: Any, until: float) -> tuple[bytes, int, int, bytearray]:
        """The next message of a stream that is one of `commands`."""
        self._messages.awaited = (info.remote_id, info.local_id)
        self._messages.acknowledged = False
        found: tuple[bytes, int, int, bytearray] = self._guard(until, self._messages.read, commands, info, True)
        return found

    def close(self) -> None:
        """See `Channel.close`."""
        self._transport.close()

    def _guard(self, until: float, call: Callable[..., Any], *arguments: Any) -> Any:
        name = self._transport.name
        self._transport.until = until
        try:
            return call(*arguments)
        except TimeoutError:
            self.close()
            if self._prompted:
                raise PhoneUnauthorised(
                    f"{name} does not know this host's key.",
                    advice="Unlock the phone and accept 'Allow USB debugging?' (tick 'Always allow').",
                ) from None
            raise DeadlineExceeded(f"{name} did not answer in time.") from None
        except _WantsTls:
            self.close()
            raise PhoneUnpaired(
                f"{name} speaks ADB over TLS alone: it is a phone with wireless debugging.",
                advice="Go through adb's server: `adb pair HOST:PORT` once with the phone's code, then `adb connect` "
                f"{name}.",
            ) from None
        except _PROTOCOL_ERRORS as error:
            self.close()
            raise PhoneUnreachable(
                f"{name} does not speak ADB: {error}.", advice="Is this the address of a phone?"
            ) from None
        except exceptions.DeviceAuthError as error:
            self.close()
            raise PhoneUnauthorised(f"{name} refused this host's key: {error}.") from None
        except OSError as error:
            self.close()
            raise PhoneUnreachable(
                f"{name} is not reachable: {error}.",
                advice="Is the phone on, and its ADB port open?",
            ) from None
        except BaseException:  # a callback's, or an interrupt between two halves of a message
            self.close()
            raise
