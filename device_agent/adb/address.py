"""Names of phones. Every serial that comes from outside passes `parse`, whoever gave it, and is safe to put anywhere:
into a request to an adb server, whose parts are divided by colons, or on a command line.
"""

import re
from dataclasses import dataclass

from device_agent.adb.errors import AddressInvalid

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}")
_TCP = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.\-]{0,100}):(?P<port>[0-9]{1,5})")
_TLS = re.compile(r"[^:]+\._adb-tls-connect\._tcp\.?")


@dataclass(frozen=True)
class Address:
    """What a user calls a phone: `host:port`, the serial of a USB phone, or the mDNS name of a wireless one."""

    serial: str
    tcp: tuple[str, int] | None
    wireless: bool


def parse(serial: str) -> Address:
    """Read a phone's name.

    Raises:
        AddressInvalid: it is none.
    """
    match = _TCP.fullmatch(serial)
    tcp = (match["host"], int(match["port"])) if match and 0 < int(match["port"]) < 65536 else None
    if not _SERIAL.fullmatch(serial) or (":" in serial and tcp is None):
        raise AddressInvalid(
            f"{serial!r} is not an address of a phone.",
            advice="Give it as host:port, or as the serial that `adb devices` shows.",
        )
    return Address(serial, tcp, _TLS.fullmatch(serial) is not None)
