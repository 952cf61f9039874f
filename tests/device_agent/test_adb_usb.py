"""USB, on a bus of our own that keeps the kernel's rules, the virtual phone at its end. No hardware was there."""

import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import usb1
from bench_examples import eventually, sha256

from device_agent.adb import (
    DeadlineExceeded,
    LibusbMissing,
    Link,
    PhoneBusy,
    PhoneForbidden,
    PhoneUnreachable,
    discover,
    usb,
)
from device_agent.virtual import VirtualPhone

SERIAL = "R5CX1234567"
TMP = "/data/local/tmp"
PACKET = 512
IN, OUT = 0x81, 0x02


class Bus:
    """A phone on a bus: what is written in bulk transfers goes to a daemon's TCP port, and back.

    A transfer ends with a packet that is not full; a header and a payload are a transfer each; who asks for less than a
    transfer has left, in anything but whole packets, gets an overflow. Every third transfer out is taken by half.
    """

    def __init__(self, phone: VirtualPhone) -> None:
        self.refuse: type[Exception] | None = None
        self.stale = [b"x" * 700, b"y" * 24]
        self._phone = phone
        self._arrived: queue.Queue[bytes] = queue.Queue()
        self._message = b""
        self._transfer = b""
        self._writes = 0
        self._unread = b""
        self.claimed = False
        self.daemon: socket.socket | None = None

    # what usb1 offers of a device and its handle

    def getDeviceList(self, skip_on_error: bool) -> list["Bus"]:
        return [self]

    def getBusNumber(self) -> int:
        return 1

    def getDeviceAddress(self) -> int:
        return 4

    def open(self) -> "Bus":
        return self

    def close(self) -> None:
        pass

    def claimInterface(self, number: int) -> None:
        if self.refuse is not None:
            raise self.refuse
        assert number == 3
        self.claimed = True
        for junk in self.stale:
            self._arrived.put(junk)
        host, port = self._phone.address.split(":")
        self.daemon = socket.create_connection((host, int(port)))
        threading.Thread(target=self._receive, args=(self.daemon,), daemon=True).start()

    def releaseInterface(self, number: int) -> None:
        self.claimed = False
        assert self.daemon is not None
        self.daemon.shutdown(socket.SHUT_RDWR)
        self.daemon.close()

    def bulkWrite(self, endpoint: int, data: bytes, timeout: int) -> int:
        assert endpoint == OUT
        assert 0 < timeout <= 1000
        self._writes += 1
        if self._writes % 3 == 0 and len(data) > 4 * PACKET:
            part = len(data) // 2 // PACKET * PACKET
            self._transfer += data[:part]
            late = usb1.USBErrorTimeout()
            late.transferred = part
            raise late
        self._transfer += data
        if len(data) % PACKET or not data:
            self._ended(self._transfer)
            self._transfer = b""
        return len(data)

    def _ended(self, transfer: bytes) -> None:
        self._message += transfer
        length = struct.unpack_from("<I", self._message, 12)[0]
        assert len(self._message) in (24, 24 + length), "a transfer that is neither a header nor a payload"
        if len(self._message) == 24 + length:
            assert self.daemon is not None
            self.daemon.sendall(self._message)
            self._message = b""

    def bulkRead(self, endpoint: int, length: int, timeout: int) -> bytes:
        assert endpoint == IN
        try:
            self._unread = self._unread or self._arrived.get(timeout=timeout / 1000)
        except queue.Empty:
            late = usb1.USBErrorTimeout()
            late.received = b""
            raise late from None
        if self._unread == b"gone":
            raise usb1.USBErrorNoDevice
        if length < len(self._unread) and length % PACKET:
            raise usb1.USBErrorOverflow
        taken, self._unread = self._unread[:length], self._unread[length:]
        return taken

    def _receive(self, daemon: socket.socket) -> None:
        stream = daemon.makefile("rb")
        while header := stream.read(24):
            self._arrived.put(header)
            if length := struct.unpack_from("<I", header, 12)[0]:
                self._arrived.put(stream.read(length))

    def unplug(self) -> None:
        self._arrived.put(b"gone")


class Context:
    bus: Bus

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def getDeviceList(self, skip_on_error: bool) -> list[Bus]:
        return [self.bus]


def _write(folder: Path, **words: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, word in words.items():
        (folder / name).write_text(f"{word}\n")


def _interface(sysfs: Path, name: str, number: str, *classes: str) -> None:
    folder = sysfs / name
    _write(folder, bInterfaceNumber=number)
    _write(folder, **dict(zip(("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol"), classes, strict=True)))
    _write(folder / "ep_81", bEndpointAddress="81", type="Bulk", direction="in", wMaxPacketSize="0200")
    _write(folder / "ep_02", bEndpointAddress="02", type="Bulk", direction="out", wMaxPacketSize="0200")
    _write(folder / "ep_83", bEndpointAddress="83", type="Interrupt", direction="in", wMaxPacketSize="001c")


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As Linux shows a phone with MTP and ADB, a keyboard, and a phone that tells no serial."""
    tree = tmp_path / "sysfs"
    _write(tree / "1-4", serial=SERIAL, product="SAMSUNG_Android", busnum="1", devnum="4")
    _interface(tree, "1-4:1.0", "00", "06", "01", "01")
    _interface(tree, "1-4:1.3", "03", "ff", "42", "01")
    _write(tree / "1-5", product="Keyboard", busnum="1", devnum="5")
    _interface(tree, "1-5:1.0", "00", "03", "01", "01")
    _write(tree / "1-6", product="Nameless", busnum="1", devnum="6")
    _interface(tree, "1-6:1.0", "00", "ff", "42", "01")
    (tmp_path / "dev/001").mkdir(parents=True)
    (tmp_path / "dev/001/004").touch()
    monkeypatch.setattr(usb, "SYSFS", tree)
    monkeypatch.setattr(usb, "NODES", tmp_path / "dev")
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:127.0.0.1:1")
    return tree


@pytest.fixture
def bus(sysfs: Path, phone: VirtualPhone, monkeypatch: pytest.MonkeyPatch) -> Bus:
    made = Bus(phone)
    monkeypatch.setattr(Context, "bus", made, raising=False)
    monkeypatch.setattr(usb1, "USBContext", Context)
    monkeypatch.setattr(usb1, "loadLibrary", lambda: None)
    return made


@pytest.fixture
def link(bus: Bus, session_key: Path) -> Iterator[Link]:
    with Link.connect(SERIAL, session_key, 30) as connected:
        yield connected


def test_the_bus_is_read_from_sysfs(sysfs: Path) -> None:
    assert [(found.serial, found.interface, found.packet) for found in usb.attached()] == [(SERIAL, 3, PACKET)]
    assert [(found.serial, found.via, found.state) for found in discover()] == [(SERIAL, "usb", "device")]
    (usb.NODES / "001/004").unlink()
    [found] = discover()
    assert found.state == "no-permissions"
    assert "udev" in found.detail


def test_a_link_over_usb_does_all_that_one_over_tcp_does(link: Link, bus: Bus, tmp_path: Path) -> None:
    done = link.shell(["sh", "-c", "echo out; echo err >&2; exit 42"], 20)
    assert (done.exit_code, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    for size in (0, 1, PACKET, 3_000_001, 2 * 1024 * 1024):
        data = os.urandom(size)
        remote = f"{TMP}/objects/{size}"
        assert link.push(data, remote, sha256(data), timeout=60) == size
        assert link.pull(remote, tmp_path / "back", timeout=60) == size
        assert (tmp_path / "back").read_bytes() == data
    with link.running(["sh", "-c", "echo $$; sleep 60"], 20) as run:
        pid = int(next(iter(run)))
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    link.close()
    assert not bus.claimed


def test_a_deadline_is_kept_over_usb(link: Link, bus: Bus) -> None:
    with pytest.raises(DeadlineExceeded):
        link.shell(["sleep", "60"], 0.5)
    assert not bus.claimed


def test_a_phone_that_is_unplugged_is_an_error_at_once(link: Link, bus: Bus) -> None:
    started = time.monotonic()
    with link.running(["sh", "-c", "echo up; sleep 60"], 120) as run:
        lines = iter(run)
        assert next(lines) == "up"
        bus.unplug()
        with pytest.raises(PhoneUnreachable):
            next(lines)
    assert time.monotonic() - started < 60


def test_close_from_another_thread_ends_a_call_over_usb(link: Link) -> None:
    timer = threading.Timer(0.3, link.close)
    timer.start()
    started = time.monotonic()
    with pytest.raises(PhoneUnreachable):
        link.shell(["sleep", "60"], 120)
    assert time.monotonic() - started < 60


def test_a_busy_phone_names_who_holds_it(
    bus: Bus, session_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = tmp_path / "proc/4711/fd"
    _write(tmp_path / "proc/4711", comm="scrcpy")
    descriptors.mkdir()
    (descriptors / "7").symlink_to(usb.NODES / "001/004")
    (tmp_path / "proc/12").mkdir()
    monkeypatch.setattr(usb, "PROCESSES", tmp_path / "proc")
    bus.refuse = usb1.USBErrorBusy
    with pytest.raises(PhoneBusy, match=r"held by scrcpy \(process 4711\)"):
        Link.connect(SERIAL, session_key, 10)
    (descriptors / "7").unlink()
    with pytest.raises(PhoneBusy, match="another user"):
        Link.connect(SERIAL, session_key, 10)


def test_who_holds_a_file_is_found_in_the_real_proc(tmp_path: Path) -> None:
    held = tmp_path / "node"
    held.touch()
    assert usb.holders(held) == []
    with held.open():
        [holder] = usb.holders(held)
    assert holder.endswith(f"(process {os.getpid()})")


@pytest.mark.parametrize(
    ("failure", "error", "word"),
    [(usb1.USBErrorAccess, PhoneForbidden, "udev"), (usb1.USBErrorNoDevice, PhoneUnreachable, "")],
)
def test_what_the_bus_refuses_is_told(
    bus: Bus, session_key: Path, failure: Any, error: type[PhoneForbidden], word: str
) -> None:
    bus.refuse = failure
    with pytest.raises(error) as caught:
        Link.connect(SERIAL, session_key, 10)
    assert word in caught.value.advice


def test_a_serial_that_nobody_has(sysfs: Path, session_key: Path) -> None:
    with pytest.raises(PhoneUnreachable, match="on USB"):
        Link.connect("R5CX0000000", session_key, 10)


def test_a_host_without_libusb_is_told_what_to_install(
    sysfs: Path, session_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise OSError("libusb-1.0.so.0: cannot open shared object file")

    monkeypatch.setattr(usb1, "loadLibrary", missing)
    with pytest.raises(LibusbMissing) as caught:
        Link.connect(SERIAL, session_key, 10)
    assert "libusb-1.0-0" in caught.value.advice
