"""USB: the phones on this host's bus, and a transport to one of them.

Who is there is read from Linux's sysfs, which needs neither a library nor a permission; bytes go through libusb.
Unproven on hardware: no phone has been on a bus here. The transport is tested over a bus of our own making that keeps
the kernel's rules for bulk transfers, with a daemon that speaks ADB at its other end.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import usb1

from device_agent.adb.channel import Data
from device_agent.adb.errors import LibusbMissing, PhoneBusy, PhoneForbidden, PhoneUnreachable

SYSFS = Path("/sys/bus/usb/devices")
NODES = Path("/dev/bus/usb")
PROCESSES = Path("/proc")

_ADB = ("ff", "42", "01")  # vendor specific, ADB's subclass and protocol (AOSP: adb/adb.h)
_SLICE_SECONDS = 0.2  # the longest that closing waits for a transfer in progress
_DRAIN_MS, _DRAINS, _DRAINED = 10, 100, 16 * 1024


@dataclass(frozen=True)
class UsbPhone:
    """A phone's ADB interface: where it is, and its two bulk endpoints."""

    serial: str
    model: str
    bus: int
    device: int
    interface: int
    endpoint_in: int
    endpoint_out: int
    packet: int

    @property
    def node(self) -> Path:
        """The device file."""
        return NODES / f"{self.bus:03}" / f"{self.device:03}"

    @property
    def allowed(self) -> bool:
        """Whether this user may open it."""
        return os.access(self.node, os.R_OK | os.W_OK)


def attached() -> list[UsbPhone]:
    """The phones with USB debugging on this host's bus that have a serial; none where there is no Linux sysfs."""
    found = []
    for interface in sorted(SYSFS.glob("*:*")):
        names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
        try:
            if tuple(_word(interface / name) for name in names) == _ADB:
                found.append(_read(interface))
        except (OSError, ValueError, KeyError):  # unplugged as we look, or without a serial
            continue
    return found


def _word(path: Path) -> str:
    return path.read_text(errors="replace").strip()


def _read(interface: Path) -> UsbPhone:
    device = interface.parent / interface.name.partition(":")[0]
    bulk = {}
    for endpoint in interface.glob("ep_*"):
        if _word(endpoint / "type") == "Bulk":
            bulk[_word(endpoint / "direction")] = endpoint
    model = device / "product"
    return UsbPhone(
        serial=_word(device / "serial"),
        model=_word(model) if model.exists() else "",
        bus=int(_word(device / "busnum")),
        device=int(_word(device / "devnum")),
        interface=int(_word(interface / "bInterfaceNumber"), 16),
        endpoint_in=int(_word(bulk["in"] / "bEndpointAddress"), 16),
        endpoint_out=int(_word(bulk["out"] / "bEndpointAddress"), 16),
        packet=int(_word(bulk["out"] / "wMaxPacketSize"), 16),
    )


def holders(node: Path) -> list[str]:
    """The programs that have a device file open, as "name (process N)"; only those that this user may look into."""
    found = set()
    for descriptor in PROCESSES.glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == node:
                process = descriptor.parents[1]
                found.add(f"{_word(process / 'comm')} (process {process.name})")
        except OSError:  # another user's, or closed just now
            continue
    return sorted(found)


def _load_libusb() -> None:
    try:
        usb1.loadLibrary()
    except OSError as error:
        raise LibusbMissing(
            f"USB needs libusb: {error}.",
            advice="Install Debian's libusb-1.0-0, start an adb server, or use `adb tcpip 5555` and host:port.",
        ) from None


class UsbTransport:
    """A phone's ADB interface, claimed; see `wire.Transport`.

    A message's header and payload are a bulk transfer each. A transfer out that fills its last packet is followed by an
    empty one, by which the phone knows its end (AOSP: adb/client/usb_linux.cpp). libusb must not be closed under a
    transfer, so a transfer is waited for in slices, and closing waits for the current one.
    """

    def __init__(self, phone: UsbPhone) -> None:
        self._phone = phone
        _load_libusb()
        self._handle: Any = None
        self._context: Any = None
        self._lock = threading.Lock()
        self.name = phone.serial
        self.until = 0.0

    @property
    def closed(self) -> bool:
        """Whether the interface is not ours."""
        return self._handle is None

    def connect(self, _timeout: float | None = None) -> None:
        """Claim the interface, and pass over what a former owner left unread.

        Raises:
            PhoneBusy, PhoneForbidden: somebody else has it, or this user may not.
            ConnectionResetError: it is not there.
        """
        self._context = usb1.USBContext()
        self._context.open()
        try:
            self._handle = self._claim()
        except usb1.USBErrorBusy:
            self.close()
            raise self._busy() from None
        except usb1.USBErrorAccess:
            self.close()
            raise forbidden(self._phone) from None
        except usb1.USBError as error:
            self.close()
            raise ConnectionResetError(str(error)) from None
        for _ in range(_DRAINS):
            if not self._transfer_in(_DRAINED, _DRAIN_MS):
                break

    def _claim(self) -> Any:
        for device in self._context.getDeviceList(skip_on_error=True):
            if (device.getBusNumber(), device.getDeviceAddress()) == (self._phone.bus, self._phone.device):
                handle = device.open()
                try:
                    handle.claimInterface(self._phone.interface)
                except usb1.USBError:
                    handle.close()
                    raise
                return handle
        raise ConnectionResetError("it is not on the bus any more")

    def _busy(self) -> PhoneBusy:
        names = ", ".join(holders(self._phone.node)) or "a program of another user"
        return PhoneBusy(
            f"{self.name} is held by {names}.",
            advice="End that program; if it is adb, `adb kill-server`, or leave it and the phone is used through it.",
        )

    def close(self) -> None:
        """Give the interface back."""
        with self._lock:
            handle, self._handle = self._handle, None
            context, self._context = self._context, None
            if handle is not None:
                try:
                    handle.releaseInterface(self._phone.interface)
                except usb1.USBError:  # unplugged
                    pass
                finally:
                    handle.close()
            if context is not None:
                context.close()

    def send(self, *parts: Data) -> None:
        """Send all of it."""
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[self._transfer_out(rest, self._slice()) :]
            if part and len(part) % self._phone.packet == 0:
                self._transfer_out(memoryview(b""), self._slice())

    def receive(self, length: int) -> bytearray:
        """Exactly `length` bytes."""
        data = bytearray()
        while len(data) < length:
            data += self._transfer_in(length - len(data), self._slice())
        return data

    def _slice(self) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return max(1, int(min(left, _SLICE_SECONDS) * 1000))

    def _transfer_out(self, data: memoryview, milliseconds: int) -> int:
        with self._lock:
            handle = self._ours()
            try:
                return int(handle.bulkWrite(self._phone.endpoint_out, bytes(data), milliseconds))
            except usb1.USBErrorTimeout as timeout:
                return int(timeout.transferred)
            except usb1.USBError as error:
                raise ConnectionResetError(str(error)) from None

    def _transfer_in(self, length: int, milliseconds: int) -> bytes:
        with self._lock:
            handle = self._ours()
            try:
                return bytes(handle.bulkRead(self._phone.endpoint_in, length, milliseconds))
            except usb1.USBErrorTimeout as timeout:
                return bytes(timeout.received)
            except usb1.USBError as error:
                raise ConnectionResetError(str(error)) from None

    def _ours(self) -> Any:
        if self._handle is None:
            raise ConnectionResetError("the connection is closed")
        return self._handle


def forbidden(phone: UsbPhone) -> PhoneForbidden:
    """What a user is told who may not open a phone."""
    return PhoneForbidden(
        f"{phone.serial} is on USB, but this user may not open {phone.node}.",
        advice="Install Debian's android-sdk-platform-tools-common (udev rules), join the group plugdev, log in anew.",
    )


def find(serial: str) -> UsbPhone:
    """The phone with this serial.

    Raises:
        PhoneUnreachable: it is not on this host's bus.
    """
    for phone in attached():
        if phone.serial == serial:
            return phone
    raise PhoneUnreachable(
        f"No phone with the serial {serial} is on USB, and no adb server has it.",
        advice="Is the cable one for data, is USB debugging on, and Samsung's Auto Blocker off?",
    )
