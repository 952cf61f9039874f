"""Which way to a phone: through an adb server that has it, else TCP, else USB."""

import time
from collections.abc import Callable
from pathlib import Path

from device_agent.adb import usb
from device_agent.adb.address import Address, parse
from device_agent.adb.channel import Channel
from device_agent.adb.errors import AdbServerFailed, PhoneUnpaired
from device_agent.adb.keys import signers
from device_agent.adb.server import AdbServer, ServerChannel
from device_agent.adb.tcp import Configure, TcpTransport
from device_agent.adb.wire import Transport, Wire

SERVER_SECONDS = 2.0  # a server on this host answers in milliseconds; one that hangs must not cost the phone


def open_channel(
    serial: str,
    key_path: Path,
    seconds: float,
    on_prompt: Callable[[], None] | None = None,
    configure: Configure | None = None,
) -> Channel:
    """The way to a phone, open and authenticated; see `Link.connect`."""
    until = time.monotonic() + seconds
    address = parse(serial)
    server = _server_with(address, min(seconds, SERVER_SECONDS))
    if server is not None:
        channel = ServerChannel(server, serial)
        channel.connect(until - time.monotonic(), on_prompt)
        return channel
    transport: Transport
    if address.tcp is not None:
        transport = TcpTransport(*address.tcp, configure)
    elif address.wireless:
        raise PhoneUnpaired(
            f"{serial} is a phone with wireless debugging, and no adb server has it.",
            advice=f"`adb pair HOST:PORT` once with the phone's code, then `adb connect {serial}`.",
        )
    else:
        transport = usb.UsbTransport(usb.find(serial))
    wire = Wire(transport)
    wire.connect(signers(key_path), until - time.monotonic(), on_prompt)
    return wire


def _server_with(address: Address, seconds: float) -> AdbServer | None:
    """The adb server, if it has the phone in a state that is one or can become one.

    An entry "offline" of a TCP phone outlives the phone's reboot until somebody says `adb reconnect`: then the phone is
    asked itself.
    """
    server = AdbServer.configured()
    try:
        states = {listed.serial: listed.state for listed in server.devices(seconds)}
    except AdbServerFailed:  # none runs, or it hangs
        return None
    state = states.get(address.serial)
    return None if state is None or (state == "offline" and address.tcp is not None) else server
