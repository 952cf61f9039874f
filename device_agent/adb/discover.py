"""Which phones are within reach of this host, from every source that there is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from device_agent.adb import usb
from device_agent.adb.errors import AdbServerFailed
from device_agent.adb.route import SERVER_SECONDS
from device_agent.adb.server import AdbServer, Listed

Via = Literal["tcp", "usb", "adb-server"]
State = Literal["device", "unauthorized", "offline", "no-permissions", "unpaired"]

_PLAIN, _TLS, _PAIRING = "_adb._tcp", "_adb-tls-connect._tcp", "_adb-tls-pairing._tcp"
_STATES: Mapping[str, State] = {
    "device": "device",
    "unauthorized": "unauthorized",
    "authorizing": "unauthorized",
    "offline": "offline",
    "no permissions": "no-permissions",
}
_DETAILS: Mapping[State, str] = {
    "unauthorized": "Unlock the phone and accept 'Allow USB debugging?' (tick 'Always allow').",
    "offline": "The adb server has lost it: `adb reconnect`, or take the cable out and in again.",
    "no-permissions": "The adb server's user may not open it: install Debian's android-sdk-platform-tools-common (udev "
    "rules), join the group plugdev, log in anew, and restart the server.",
}


@dataclass(frozen=True)
class Found:
    """A phone that some source names; nothing is proved of it yet.

    `serial` is what `Link.connect` takes. `via` is the way that it would go. `state` is in adb's words: "device" may
    be connected to, "unpaired" is a phone with wireless debugging that the adb server has seen but not connected.
    `detail` says in a sentence what is wrong and what to do, "" if nothing is. `facts` is what the source says besides,
    such as `model` and `product`.
    """

    serial: str
    via: Via
    state: State
    detail: str = ""
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)


def discover() -> list[Found]:
    """The phones that can be seen now, one entry for each serial: the adb server's word first, then USB's, then mDNS's.

    A source that is missing (no server, no mDNS in it, no bus) names none; discovery itself never fails. The serials
    are as the source has them: `Link.connect` refuses those that could not be named safely.
    """
    found: dict[str, Found] = {}
    for source in (_listed, _attached, _advertised):
        for phone in source():
            found.setdefault(phone.serial, phone)
    return list(found.values())


def _listed() -> list[Found]:
    try:
        devices = AdbServer.configured().devices(SERVER_SECONDS)
    except AdbServerFailed:
        return []
    return [_from_server(listed) for listed in devices]


def _from_server(listed: Listed) -> Found:
    state = _STATES.get(listed.state, "offline")
    detail = _DETAILS.get(state, "")
    if state == "offline" and listed.state != "offline":
        detail = f"The adb server says that it is {listed.state}."
    facts = {name: value for name, value in listed.facts.items() if name in ("model", "product", "device")}
    facts["transport"] = _transport(listed)
    return Found(listed.serial, "adb-server", state, detail, facts)


def _transport(listed: Listed) -> str:
    if "usb" in listed.facts:
        return "usb"
    return "wireless" if "._adb-tls-connect." in listed.serial else "tcp" if ":" in listed.serial else "unknown"


def _attached() -> list[Found]:
    found = []
    for phone in usb.attached():
        facts = {"transport": "usb"} | ({"model": phone.model} if phone.model else {})
        if phone.allowed:
            found.append(Found(phone.serial, "usb", "device", "", facts))
        else:
            error = usb.forbidden(phone)
            found.append(Found(phone.serial, "usb", "no-permissions", f"{error.message} {error.advice}", facts))
    return found


def _advertised() -> list[Found]:
    """Phones that an adb server has heard of on the network; those that it is connected to are in its list too."""
    try:
        services = AdbServer.configured().advertised(SERVER_SECONDS)
    except AdbServerFailed:
        return []
    pairing = {service.name: service.address for service in services if service.service.startswith(_PAIRING)}
    found = []
    for service in services:
        facts = {"address": service.address}
        if service.service.startswith(_TLS):
            at = pairing.get(service.name, "HOST:PORT as under 'Pair device with pairing code'")
            detail = f"Pair it once: `adb pair {at}`; then `adb connect {service.address}`."
            serial = f"{service.name}.{_TLS}"
            found.append(Found(serial, "adb-server", "unpaired", detail, facts | {"transport": "wireless"}))
        elif service.service.startswith(_PLAIN):
            found.append(Found(service.address, "tcp", "device", "", facts | {"transport": "tcp"}))
    return found
