"""A running adb server as a way to phones: its smart-socket protocol (AOSP: adb/SERVICES.TXT, adb/OVERVIEW.TXT).

A request is four hexadecimal digits of length and a text; the answer is OKAY, or FAIL and a reason. After
`host:transport:SERIAL` the connection takes one service of that phone, and then is that service's stream.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Self

from device_agent.adb.channel import Data, Stream
from device_agent.adb.errors import AdbServerFailed, DeadlineExceeded, PhoneUnauthorised, PhoneUnreachable
from device_agent.adb.tcp import TcpTransport

_PORT = 5037
_SOCKET = re.compile(r"tcp:(?:(?P<host>[^:]+):)?(?P<port>[0-9]{1,5})")
_FACT = re.compile(r"\b(usb|product|model|device|transport_id):(\S+)")
_POLL_SECONDS = 0.5
_PAYLOAD = 256 * 1024
_ACCEPT = "Unlock the phone and accept 'Allow USB debugging?' (tick 'Always allow')."


class _Refused(Exception):
    """The server answered FAIL."""


@dataclass(frozen=True)
class Listed:
    """A line of `adb devices -l`; `state` is the server's own word."""

    serial: str
    state: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Advertised:
    """A line of `adb mdns services`."""

    name: str
    service: str
    address: str


@dataclass(frozen=True)
class AdbServer:
    """Where a server of adb listens, if one runs."""

    host: str = "127.0.0.1"
    port: int = _PORT

    @classmethod
    def configured(cls) -> Self:
        """The one that `adb` itself would use: ADB_SERVER_SOCKET, ANDROID_ADB_SERVER_ADDRESS and _PORT, else the usual.

        Raises:
            AdbServerFailed: a variable is set to what is not understood here.
        """
        named = os.environ.get("ADB_SERVER_SOCKET", "")
        host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS", cls.host)
        port = os.environ.get("ANDROID_ADB_SERVER_PORT", str(cls.port))
        if named:
            match = _SOCKET.fullmatch(named)
            host, port = (match["host"] or cls.host, match["port"]) if match else ("", "")
        if not port.isdecimal():
            raise AdbServerFailed(
                "ADB_SERVER_SOCKET or ANDROID_ADB_SERVER_PORT is not understood.",
                advice="Unset it, or set ADB_SERVER_SOCKET=tcp:HOST:PORT.",
            )
        return cls(host, int(port))

    def dial(self, until: float) -> TcpTransport:
        """A connection to it. OSError when there is none."""
        transport = TcpTransport(self.host, self.port)
        transport.until = until
        transport.connect()
        return transport

    def query(self, service: str, seconds: float) -> str:
        """The answer to a request such as "host:version".

        Raises:
            AdbServerFailed: no server, one that refuses, or one that does not answer in time.
        """
        transport = None
        try:
            transport = self.dial(time.monotonic() + seconds)
            request(transport, service.encode())
            return bytes(_counted(transport)).decode(errors="replace")
        except (OSError, _Refused, ValueError) as error:  # TimeoutError is an OSError
            raise AdbServerFailed(
                f"No answer to {service} from an adb server at {self.host}:{self.port}: {error}."
            ) from None
        finally:
            if transport is not None:
                transport.close()

    def devices(self, seconds: float) -> list[Listed]:
        """The phones that it knows; AdbServerFailed as for `query`."""
        return [_listed(line) for line in self.query("host:devices-l", seconds).splitlines() if line.strip()]

    def advertised(self, seconds: float) -> list[Advertised]:
        """The phones that it has heard of by mDNS; AdbServerFailed as for `query`."""
        lines = (line.split("\t") for line in self.query("host:mdns:services", seconds).splitlines())
        return [Advertised(*(field.strip() for field in line)) for line in lines if len(line) == 3]


def _listed(line: str) -> Listed:
    serial, _, rest = line.strip().partition(" ")
    state = "no permissions" if "no permissions" in rest else rest.split()[0] if rest.split() else "offline"
    return Listed(serial, state, dict(_FACT.findall(rest)))


def request(transport: TcpTransport, text: bytes) -> None:
    """Send a request and read whether it is granted; _Refused with the server's reason if not."""
    transport.send(f"{len(text):04x}".encode() + text)
    verdict = transport.receive(4)
    if verdict == b"FAIL":
        raise _Refused(bytes(_counted(transport)).decode(errors="replace").strip())
    if verdict != b"OKAY":
        raise ConnectionResetError("what listens there is no adb server")


def _counted(transport: TcpTransport) -> bytearray:
    return transport.receive(int(transport.receive(4), 16))


class _ServerStream(Stream):
    def __init__(self, channel: "ServerChannel", transport: TcpTransport, until: float) -> None:
        super().__init__(until)
        self._channel = channel
        self._transport = transport

    def _fetch(self) -> None:
        with self._channel.guard(self._transport, self.until):
            data = self._transport.receive_some()
        self._ended = not data
        self._arrived(data)

    @property
    def answered(self) -> bool:
        """See `Stream.answered`."""
        with self._channel.guard(self._transport, self.until):
            return super().answered or self._transport.readable()

    def write(self, data: Data) -> None:
        """See `Stream.write`; the server keeps up to a few MB of it."""
        with self._channel.guard(self._transport, self.until):
            self._transport.send(data)

    def close(self) -> None:
        """See `Stream.close`."""
        self._transport.close()
        self._channel.forget(self._transport)


class ServerChannel:
    """A phone through an adb server; see `Channel`. Each stream is a connection of its own."""

    def __init__(self, server: AdbServer, serial: str) -> None:
        self._server = server
        self._serial = serial
        self._lock = threading.Lock()
        self._open: set[TcpTransport] = set()
        self._closed = False
        self.max_payload = _PAYLOAD

    @property
    def closed(self) -> bool:
        """See `Channel.closed`."""
        return self._closed

    def connect(self, seconds: float, on_prompt: Callable[[], None] | None = None) -> None:
        """Wait until the server calls the phone a device; `on_prompt` is called once while it is unauthorised.

        Raises:
            PhoneUnauthorised: nobody accepted the server's key within `seconds`.
            PhoneUnreachable: the server has the phone in a state that does not pass by itself.
        """
        until = time.monotonic() + seconds
        told = False
        while (state := self._state(until)) != "device":
            if state == "unauthorized" and not told and on_prompt is not None:
                on_prompt()
            told = told or state == "unauthorized"
            if time.monotonic() + _POLL_SECONDS >= until:
                raise self._stuck(state)
            time.sleep(_POLL_SECONDS)

    def _state(self, until: float) -> str:
        seconds = max(0.1, until - time.monotonic())
        states = {listed.serial: listed.state for listed in self._server.devices(seconds)}
        return states.get(self._serial, "not there any more")

    def _stuck(self, state: str) -> PhoneUnauthorised | PhoneUnreachable:
        if state in ("unauthorized", "authorizing"):
            return PhoneUnauthorised(f"{self._serial} does not know the adb server's key.", advice=_ACCEPT)
        advice = "`adb reconnect`, or take the cable out and in again."
        return PhoneUnreachable(f"The adb server says that {self._serial} is {state}.", advice=advice)

    def open(self, service: bytes, until: float) -> Stream:
        """See `Channel.open`."""
        transport = TcpTransport(self._server.host, self._server.port)
        with self._lock:
            if self._closed:
                raise PhoneUnreachable(f"The link to {self._serial} is closed.")
            self._open.add(transport)
        with self.guard(transport, until):
            transport.connect()
            if self._closed:  # by another thread, before there was a connection to cut
                raise ConnectionResetError("the connection is closed")
            request(transport, f"host:transport:{self._serial}".encode())
            request(transport, service)
        return _ServerStream(self, transport, until)

    def forget(self, transport: TcpTransport) -> None:
        """A stream has ended."""
        with self._lock:
            self._open.discard(transport)

    def close(self) -> None:
        """See `Channel.close`."""
        with self._lock:
            self._closed = True
            taken, self._open = self._open, set()
        for transport in taken:
            transport.close()

    @contextlib.contextmanager
    def guard(self, transport: TcpTransport, until: float) -> Generator[None, None, None]:
        """The deadline, and what failures mean."""
        transport.until = until
        try:
            yield
        except TimeoutError:
            self.close()
            raise DeadlineExceeded(f"{self._serial} did not answer in time.") from None
        except _Refused as refused:
            self.close()
            if "unauthorized" in str(refused):
                raise PhoneUnauthorised(f"The adb server: {refused}", advice=_ACCEPT) from None
            raise PhoneUnreachable(f"The adb server: {refused}", advice="See `adb devices`.") from None
        except OSError as error:
            self.close()
            raise PhoneUnreachable(f"{self._serial} is lost: {error}.", advice="See `adb devices`.") from None
        except BaseException:
            self.close()
            raise
