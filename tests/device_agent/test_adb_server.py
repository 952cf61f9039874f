"""Through a running adb server: Google's own, the virtual phone behind it, and a scripted one for the rest."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adb_client import Adb
from bench_examples import eventually, sha256

from device_agent.adb import (
    AdbServerFailed,
    DeadlineExceeded,
    Link,
    PhoneUnauthorised,
    PhoneUnpaired,
    PhoneUnreachable,
    PullFailed,
    PushFailed,
    discover,
    usb,
)
from device_agent.adb.keys import Signer
from device_agent.adb.server import AdbServer
from device_agent.virtual import VirtualPhone, running

TMP = "/data/local/tmp"
WIRELESS = "adb-R5CX1234567-aBcDeF._adb-tls-connect._tcp"


@pytest.fixture(scope="module")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adb]:
    client = Adb(tmp_path_factory.mktemp("adb-home"))
    client("start-server")
    yield client
    client("kill-server")


@pytest.fixture(scope="module")
def held(adb: Adb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualPhone]:
    """A phone that knows the server's key, and no other."""
    with running(tmp_path_factory.mktemp("held") / "phone", accept_first_key=True) as phone:
        adb("connect", phone.address)
        eventually(lambda: f"{phone.address}\tdevice".encode() in adb("devices").stdout)
        yield phone


@pytest.fixture
def served(adb: Adb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb.port))


@pytest.fixture
def through(served: None, held: VirtualPhone, session_key: Path) -> Iterator[Link]:
    with Link.connect(held.address, session_key, 20) as link:
        yield link


def test_a_phone_that_a_server_has_is_reached_through_it(
    through: Link, held: VirtualPhone, session_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The phone knows the server's key alone: what works with ours went through the server."""
    done = through.shell(["sh", "-c", "echo out; echo err >&2; exit 42"], 20)
    assert (done.exit_code, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    with pytest.raises(PhoneUnauthorised):
        Link.connect(held.address, session_key, 3)


def test_files_travel_through_the_server(through: Link, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    assert through.push(data, f"{TMP}/new/object", sha256(data)) == len(data)
    assert through.push(data, f"{TMP}/new/object", sha256(data)) == 0
    assert through.pull(f"{TMP}/new/object", tmp_path / "back") == len(data)
    assert (tmp_path / "back").read_bytes() == data
    with pytest.raises(PushFailed, match="Permission denied"):
        through.push(os.urandom(20_000_000), "/system/bin/tool", "0" * 64)
    with pytest.raises(PullFailed, match="No such file"):
        through.pull(f"{TMP}/nothing", tmp_path / "nothing")


def test_leaving_a_run_early_ends_it_through_the_server(through: Link) -> None:
    with through.running(["sh", "-c", "echo $$; sleep 60"], 30) as run:
        pid = int(next(iter(run)))
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert through.shell(["echo", "alive"], 20).text == "alive\n"


def test_deadlines_hold_through_the_server_and_close_the_link(through: Link) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        through.shell(["sleep", "60"], 0.5)
    assert time.monotonic() - started < 20
    with pytest.raises(PhoneUnreachable):
        through.shell(["true"], 5)


def test_close_from_another_thread_ends_a_call_through_the_server(through: Link) -> None:
    timer = threading.Timer(0.3, through.close)
    timer.start()
    started = time.monotonic()
    with pytest.raises(PhoneUnreachable):
        through.shell(["sleep", "60"], 50)
    assert time.monotonic() - started < 25


def test_an_unauthorised_phone_is_waited_for_until_its_prompt_is_accepted(
    adb: Adb, served: None, session_key: Path, tmp_path: Path
) -> None:
    prompts: list[str] = []
    with running(tmp_path / "stranger") as phone:
        adb("connect", phone.address)
        assert [found.state for found in discover() if found.serial == phone.address] == ["unauthorized"]
        with pytest.raises(PhoneUnauthorised) as caught:
            Link.connect(phone.address, session_key, 3, on_prompt=lambda: prompts.append("again"))
        assert "Allow USB debugging" in caught.value.advice
        assert prompts == ["again"]

        def accept() -> None:
            phone.root.keys.write_bytes(Signer(adb.key).GetPublicKey() + b"\n")

        with Link.connect(phone.address, session_key, 60, on_prompt=accept) as link:
            assert link.shell(["echo", "in"], 20).text == "in\n"
        adb("disconnect", phone.address)


def test_a_phone_that_goes_away_under_the_server_is_an_error(
    adb: Adb, served: None, session_key: Path, tmp_path: Path
) -> None:
    with running(tmp_path / "leaving", accept_first_key=True) as phone:
        adb("connect", phone.address)
        eventually(lambda: f"{phone.address}\tdevice".encode() in adb("devices").stdout)
        link = Link.connect(phone.address, session_key, 20)
        with link.running(["sh", "-c", "echo up; sleep 60"], 120) as run:
            lines = iter(run)
            assert next(lines) == "up"
            adb("disconnect", phone.address)
            with pytest.raises(PhoneUnreachable):
                next(lines)


def test_the_server_that_dies_during_a_command_is_an_error(
    session_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Adb(tmp_path)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(own.port))
    with running(tmp_path / "phone", accept_first_key=True) as phone:
        own("connect", phone.address)
        eventually(lambda: f"{phone.address}\tdevice".encode() in own("devices").stdout)
        link = Link.connect(phone.address, session_key, 20)
        with link.running(["sh", "-c", "echo up; sleep 60"], 120) as run:
            lines = iter(run)
            assert next(lines) == "up"
            own("kill-server")
            with pytest.raises(PhoneUnreachable):
                next(lines)


def test_discovery_has_the_servers_list(served: None, held: VirtualPhone) -> None:
    mine = [found for found in discover() if found.serial == held.address]
    assert [(found.via, found.state, found.detail) for found in mine] == [("adb-server", "device", "")]
    assert mine[0].facts["model"] == "SM_S921B"
    assert mine[0].facts["transport"] == "tcp"


@contextmanager
def scripted(answers: dict[str, bytes]) -> Iterator[int]:
    """A server that answers each request as it is told, and others not at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                held.append(client)
                request = client.recv(4096)[4:].decode()
                if request in answers:
                    client.sendall(answers[request])
                    client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for client in held:
            client.close()
        thread.join(10)


def said(text: str) -> bytes:
    return f"OKAY{len(text):04x}{text}".encode()


LIST = """\
R5CX1234567            device usb:1-4 product:e1sxxx model:SM_S921B device:e1s transport_id:3
R5CX7654321            no permissions (user in plugdev group; are your udev rules wrong?); see [http://x]
R5CXAAAAAAA            unauthorized usb:1-5 transport_id:4
R5CXBBBBBBB            recovery usb:1-6 transport_id:5
192.168.1.9:5555       offline transport_id:6
"""
SERVICES = f"""\
{WIRELESS.partition(".")[0]}\t_adb-tls-connect._tcp\t192.168.1.7:37251
{WIRELESS.partition(".")[0]}\t_adb-tls-pairing._tcp\t192.168.1.7:40001
adb-R5CXCCCCCCC\t_adb._tcp\t192.168.1.8:5555
"""


def test_discovery_tells_states_apart_and_how_to_mend_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted({"host:devices-l": said(LIST), "host:mdns:services": said(SERVICES)}) as port:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:127.0.0.1:{port}")
        found = {phone.serial: phone for phone in discover()}
    states = {serial: (phone.via, phone.state, phone.facts["transport"]) for serial, phone in found.items()}
    assert states == {
        "R5CX1234567": ("adb-server", "device", "usb"),
        "R5CX7654321": ("adb-server", "no-permissions", "unknown"),
        "R5CXAAAAAAA": ("adb-server", "unauthorized", "usb"),
        "R5CXBBBBBBB": ("adb-server", "offline", "usb"),
        "192.168.1.9:5555": ("adb-server", "offline", "tcp"),
        WIRELESS: ("adb-server", "unpaired", "wireless"),
        "192.168.1.8:5555": ("tcp", "device", "tcp"),
    }
    assert found["R5CX1234567"].facts["model"] == "SM_S921B"
    assert "udev" in found["R5CX7654321"].detail
    assert "Allow USB debugging" in found["R5CXAAAAAAA"].detail
    assert "recovery" in found["R5CXBBBBBBB"].detail
    assert "adb pair 192.168.1.7:40001" in found[WIRELESS].detail


def test_discovery_does_without_a_source_that_is_missing_or_odd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(usb, "SYSFS", tmp_path)
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:127.0.0.1:1")
    assert discover() == []
    monkeypatch.setenv("ADB_SERVER_SOCKET", "localfilesystem:/nowhere")
    assert discover() == []
    for answer in (b"FAIL0004sad!", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"OKAYzzzz", b"OKAY00", b""):
        with scripted({"host:devices-l": answer, "host:mdns:services": answer}) as port:
            monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:{port}")
            assert discover() == []
            with pytest.raises(AdbServerFailed):
                AdbServer.configured().devices(5)


def test_a_server_that_says_nothing_costs_its_seconds_and_not_the_phone(
    phone: VirtualPhone, session_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted({}) as port:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:{port}")
        with Link.connect(phone.address, session_key, 30) as link:
            assert link.shell(["echo", "direct"], 20).text == "direct\n"


def test_a_tcp_phone_that_the_server_calls_offline_is_asked_itself(
    phone: VirtualPhone, session_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted({"host:devices-l": said(f"{phone.address} offline transport_id:1\n")}) as port:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:{port}")
        with Link.connect(phone.address, session_key, 30) as link:
            assert link.shell(["echo", "direct"], 20).text == "direct\n"


def test_a_wireless_phone_goes_through_the_server_or_says_how_to_get_there(
    session_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "host:devices-l": said(f"{WIRELESS} device product:e1sxxx model:SM_S921B device:e1s transport_id:9\n"),
        f"host:transport:{WIRELESS}": b"FAIL000edevice offline",
    }
    with scripted(answers) as port:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:{port}")
        with Link.connect(WIRELESS, session_key, 20) as link, pytest.raises(PhoneUnreachable, match="device offline"):
            link.shell(["true"], 10)
    with scripted({"host:devices-l": said("")}) as port:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:{port}")
        with pytest.raises(PhoneUnpaired) as caught:
            Link.connect(WIRELESS, session_key, 20)
    assert "adb pair" in caught.value.advice


def test_a_phone_that_stays_offline_is_unreachable_in_time(session_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted({"host:devices-l": said("R5CX1234567 offline usb:1-4\n")}) as port:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:{port}")
        started = time.monotonic()
        with pytest.raises(PhoneUnreachable, match="offline"):
            Link.connect("R5CX1234567", session_key, 3)
        assert time.monotonic() - started < 20
