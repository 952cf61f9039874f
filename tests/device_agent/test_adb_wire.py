"""adb-shell's defects at the level of the wire, keys and prompts: a scripted daemon sees every byte."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench_examples import sha256
from proxy import Proxy

from device_agent.adb import (
    KeyUnusable,
    Link,
    PhoneUnauthorised,
    PhoneUnpaired,
    PhoneUnreachable,
    PushFailed,
    ensure_key,
    sync,
)
from device_agent.adb.keys import Signer, signers
from device_agent.adb.wire import _WireStream
from device_agent.virtual import VirtualPhone, running

TMP = "/data/local/tmp"
HEADER = struct.Struct("<6I")
Message = tuple[bytes, int, int, bytes]


class Daemon:
    """Our end of a connection to a client: messages in and out, and all that came."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._stream = client.makefile("rb")
        self.sums: list[int] = []

    def receive(self) -> Message:
        raw = self._stream.read(HEADER.size)
        if len(raw) < HEADER.size:
            raise EOFError
        code, arg0, arg1, length, total, _ = HEADER.unpack(raw)
        self.sums.append(total)
        return code.to_bytes(4, "little"), arg0, arg1, self._stream.read(length)

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes = b"") -> None:
        code = int.from_bytes(command, "little")
        total = sum(data) & 0xFFFFFFFF
        self._client.sendall(HEADER.pack(code, arg0, arg1, len(data), total, code ^ 0xFFFFFFFF) + data)

    def greet(self) -> Message:
        greeting = self.receive()
        self.send(b"CNXN", 0x01000001, 4096, b"device::")
        return greeting

    def open(self) -> int:
        """Accept a service; the client's number of it."""
        command, number, _, _ = self.receive()
        assert command == b"OPEN"
        self.send(b"OKAY", 1, number)
        return number


@contextmanager
def daemon(play: Callable[[Daemon], None]) -> Iterator[str]:
    """The address of a daemon that plays its part for one client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        failures: list[BaseException] = []

        def run() -> None:
            client, _ = listener.accept()
            with client:
                try:
                    play(Daemon(client))
                except (EOFError, ConnectionError):
                    pass
                except BaseException as error:
                    failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(20)
        assert not failures, failures
        assert not thread.is_alive()


def test_partial_sends_lose_nothing(phone: VirtualPhone, session_key: Path) -> None:
    """A socket that takes little, before a network that is slow: adb-shell hangs here (4 of 4)."""
    data = os.urandom(4_000_000)

    def shrink(connected: socket.socket) -> None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)

    with (
        Proxy(phone.address, rate=20e6, delay=0.001) as proxy,
        Link.connect(proxy.address, session_key, 30, configure=shrink) as link,
    ):
        assert link.push(data, f"{TMP}/object", sha256(data), timeout=200) == len(data)


def test_nothing_waits_for_nagle(phone: VirtualPhone, session_key: Path) -> None:
    sockets: list[socket.socket] = []
    with Link.connect(phone.address, session_key, 20, configure=sockets.append):
        assert sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_payload_travels_with_its_header_and_without_a_checksum(session_key: Path) -> None:
    seen: list[tuple[int, int]] = []

    def play(peer: Daemon) -> None:
        _, version, _, _ = peer.greet()
        number = peer.open()
        command, _, _, data = peer.receive()
        assert command == b"WRTE"
        seen.append((version, len(data)))
        peer.send(b"OKAY", 1, number)
        peer.send(b"WRTE", 1, number, b"OKAY\0\0\0\0")
        while peer.receive()[0] != b"CLSE":
            pass
        peer.send(b"CLSE", 1, number)
        assert peer.sums[2:] == [0] * len(peer.sums[2:])

    with daemon(play) as address, Link.connect(address, session_key, 20) as link:
        assert sync.send(link._channel, b"x" * 100, "/x", 0o644, float("inf")) == 100
    assert seen[0][0] == 0x01000001
    assert seen[0][1] > 100


def test_checksums_are_right_for_a_daemon_that_insists_on_them(session_key: Path) -> None:
    def play(peer: Daemon) -> None:
        peer.receive()
        peer.send(b"CNXN", 0x01000000, 4096, b"device::")
        _, _, _, service = peer.receive()
        assert peer.sums[-1] == sum(service) & 0xFFFFFFFF

    with daemon(play) as address, Link.connect(address, session_key, 20) as link, pytest.raises(PhoneUnreachable):
        link.shell(["true"], 20)


def test_the_end_of_a_connection_is_no_silence(session_key: Path) -> None:
    def play(peer: Daemon) -> None:
        peer.greet()
        peer.open()

    with daemon(play) as address, Link.connect(address, session_key, 20) as link, pytest.raises(PhoneUnreachable):
        link.shell(["sleep", "60"], 100)


def test_a_refusal_in_the_middle_of_a_push_is_read_before_its_end(session_key: Path) -> None:
    payloads: list[int] = []

    def play(peer: Daemon) -> None:
        peer.greet()
        number = peer.open()
        for turn in range(3):
            payloads.append(len(peer.receive()[3]))
            if turn == 2:
                peer.send(b"WRTE", 1, number, b"FAIL\4\0\0\0full")
            peer.send(b"OKAY", 1, number)
        while peer.receive()[0] != b"CLSE":
            pass
        peer.send(b"CLSE", 1, number)

    with daemon(play) as address, Link.connect(address, session_key, 20) as link, pytest.raises(PushFailed) as caught:
        sync.send(link._channel, bytes(100 * 4096), "/x", 0o644, float("inf"))
    assert "full" in caught.value.message
    assert payloads == [4096] * 3


def test_a_waiting_reader_asks_for_more_before_the_payload_is_whole(session_key: Path) -> None:
    """The phone makes the next payload ready meanwhile; and each is acknowledged once."""
    counted: list[bytes] = []

    def play(peer: Daemon) -> None:
        peer.greet()
        number = peer.open()
        code = int.from_bytes(b"WRTE", "little")
        body = b"\1\1\0\0\0a" + b"\3\1\0\0\0\7"
        peer._client.sendall(HEADER.pack(code, 1, number, len(body), sum(body), code ^ 0xFFFFFFFF) + body[:3])
        counted.append(peer.receive()[0])
        peer._client.sendall(body[3:])
        peer.send(b"CLSE", 1, number)
        counted.append(peer.receive()[0])

    with daemon(play) as address, Link.connect(address, session_key, 20) as link:
        done = link.shell(["x"], 20)
    assert (done.exit_code, done.stdout) == (7, b"a")
    assert counted == [b"OKAY", b"CLSE"]


def test_a_command_within_a_command_keeps_the_outer_ones_deadline(link: Link) -> None:
    with link.running(["sh", "-c", "echo a; sleep 60"], 90) as outer:
        lines = iter(outer)
        assert next(lines) == "a"
        assert isinstance(outer.stream, _WireStream)
        before = outer.stream.until
        assert link.shell(["echo", "b"], 200).text == "b\n"
        assert outer.stream.until == before


def test_a_phone_that_answers_with_tls_says_how_to_get_there(session_key: Path) -> None:
    def play(peer: Daemon) -> None:
        peer.receive()
        peer.send(b"STLS", 0x01000000, 0)

    with daemon(play) as address, pytest.raises(PhoneUnpaired) as caught:
        Link.connect(address, session_key, 20)
    assert "adb pair" in caught.value.advice
    assert "adb connect" in caught.value.advice


def test_a_prompt_is_told_once_and_waited_for(phone: VirtualPhone, session_key: Path, tmp_path: Path) -> None:
    Link.connect(phone.address, session_key, 20).close()
    other = ensure_key(tmp_path / "other")
    prompts: list[str] = []
    with pytest.raises(PhoneUnauthorised):
        Link.connect(phone.address, other, 3, on_prompt=lambda: prompts.append("shown"))
    assert prompts == ["shown"]

    def accept() -> None:
        with phone.root.keys.open("ab") as keys:
            keys.write(Signer(other).GetPublicKey() + b"\n")

    with Link.connect(phone.address, other, 60, on_prompt=accept) as link:
        assert link.shell(["echo", "in"], 20).text == "in\n"
    with Link.connect(phone.address, other, 20, on_prompt=lambda: prompts.append("again")):
        assert prompts == ["shown"]


def test_a_callback_that_fails_leaves_no_connection(session_key: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with running(tmp_path / "strict") as phone, pytest.raises(KeyboardInterrupt):
        Link.connect(phone.address, session_key, 20, on_prompt=fail)


def test_vendor_keys_open_phones_too(session_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = ensure_key(tmp_path / "vendor" / "lab.adb_key")
    with running(tmp_path / "phone") as phone:
        phone.root.keys.write_bytes(Signer(vendor).GetPublicKey() + b"\n")
        with pytest.raises(PhoneUnauthorised):
            Link.connect(phone.address, session_key, 3)
        for named in (vendor, vendor.parent):
            monkeypatch.setenv("ADB_VENDOR_KEYS", f"{named}:")
            with Link.connect(phone.address, session_key, 20) as link:
                assert link.shell(["echo", "in"], 20).text == "in\n"
    monkeypatch.setenv("ADB_VENDOR_KEYS", str(tmp_path / "nowhere"))
    with pytest.raises(KeyUnusable):
        signers(session_key)


@pytest.mark.parametrize("argv", [[], [""], ["-c"], ["a\0b"], ["echo", b"\0"], ["echo", "x" * 70_000]])
def test_what_is_no_command_is_refused_before_it_is_sent(link: Link, argv: list[str]) -> None:
    with pytest.raises(ValueError, match="a command"):
        link.shell(argv, 20)
    assert link.shell(["echo", "alive"], 20).text == "alive\n"
