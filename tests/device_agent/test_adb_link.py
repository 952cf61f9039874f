"""The link against the virtual phone: exit codes, integrity, deadlines, and what dies when we go."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bench_examples import eventually, sha256
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent.adb import (
    AddressInvalid,
    CommandFailed,
    DeadlineExceeded,
    KeyUnusable,
    Link,
    PhoneFull,
    PhoneUnauthorised,
    PhoneUnreachable,
    PullFailed,
    Push,
    PushFailed,
    ensure_key,
)
from device_agent.adb.keys import Signer, decode_public_key, encode_public_key, signed_by
from device_agent.adb.tcp import TcpTransport
from device_agent.adb.wire import Wire
from device_agent.virtual import NotLoopback, VirtualPhone
from device_agent.virtual.root import PhoneRoot, RootUnusable

TMP = "/data/local/tmp"


def test_shell_separates_the_outputs_and_brings_the_exit_code(link: Link) -> None:
    done = link.shell(["sh", "-c", "echo out; echo err >&2; exit 42"], 5)
    assert (done.exit_code, done.stdout, done.stderr) == (42, b"out\n", b"err\n")


def test_death_by_a_signal_is_told(link: Link) -> None:
    assert link.shell(["sh", "-c", "kill -SEGV $$"], 5).exit_code == 128 + signal.SIGSEGV


def test_a_missing_program_is_exit_code_127(link: Link) -> None:
    assert link.shell(["no-such-program"], 5).exit_code == 127


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20).filter(
            lambda text: "/" not in text
        ),
        min_size=1,
        max_size=4,
    )
)
def test_arguments_arrive_as_they_were_given(link: Link, words: list[str]) -> None:
    done = link.shell(["printf", "%s\\0", *words], 5)
    assert done.stdout == "".join(f"{word}\0" for word in words).encode()


def test_variables_reach_the_program_and_odd_names_do_not(link: Link) -> None:
    assert link.shell(["sh", "-c", "echo $WORD"], 5, env={"WORD": "a b'c"}).text == "a b'c\n"
    with pytest.raises(ValueError, match="not the name"):
        link.shell(["true"], 5, env={"A;reboot": "1"})


def test_lines_come_while_the_program_runs(link: Link, phone: VirtualPhone) -> None:
    gate = phone.root.directory / "data/local/tmp/gate"
    script = f"echo first; while [ ! -e {TMP}/gate ]; do sleep 0.02; done; printf last; exit 3"
    with link.running(["sh", "-c", script], 10) as run:
        lines = iter(run)
        assert next(lines) == "first"
        gate.touch()
        assert list(lines) == ["last"]
    assert run.exit_code == 3


def test_leaving_a_run_early_kills_it_and_keeps_the_connection(link: Link) -> None:
    with link.running(["sh", "-c", "echo $$; sleep 60"], 10) as run:
        pid = int(next(iter(run)))
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert link.shell(["echo", "alive"], 5).text == "alive\n"


def test_a_command_that_takes_too_long_raises_in_time_and_is_killed(link: Link, phone: VirtualPhone) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        link.shell(["sh", "-c", f"echo $$ > {TMP}/pid; sleep 60"], 0.5)
    assert time.monotonic() - started < 3
    pid = (phone.root.directory / "data/local/tmp/pid").read_text().strip()
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    with pytest.raises(PhoneUnreachable):
        link.shell(["true"], 5)


def test_close_from_another_thread_ends_a_call(link: Link) -> None:
    timer = threading.Timer(0.3, link.close)
    timer.start()
    started = time.monotonic()
    with pytest.raises(PhoneUnreachable):
        link.shell(["sleep", "60"], 30)
    assert time.monotonic() - started < 5


def test_many_threads_share_a_link(link: Link) -> None:
    answers: list[str] = []

    def ask(name: int) -> None:
        answers.extend(link.shell(["echo", f"{name}-{turn}"], 20).text.strip() for turn in range(5))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(f"{name}-{turn}" for name in range(6) for turn in range(5))


def test_script_raises_on_failure_with_the_phones_words(link: Link) -> None:
    with pytest.raises(CommandFailed, match="exit code 9: broken"):
        link.script("echo broken >&2; exit 9", timeout=5)


def test_push_is_verified_kept_and_pulled_back(link: Link, phone: VirtualPhone, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    local = tmp_path / "file"
    local.write_bytes(data)
    remote = f"{TMP}/deep/er/object"
    assert link.push(local, remote, sha256(data), 0o755) == len(data)
    assert link.push(local, remote, sha256(data), 0o755) == 0
    place = phone.root.directory / remote.lstrip("/")
    assert place.read_bytes() == data
    assert place.stat().st_mode & 0o777 == 0o755
    assert link.pull(remote, tmp_path / "back") == len(data)
    assert (tmp_path / "back").read_bytes() == data


def test_a_damaged_copy_on_the_phone_is_sent_again(link: Link, phone: VirtualPhone) -> None:
    remote = f"{TMP}/object"
    link.push(b"content", remote, sha256(b"content"))
    (phone.root.directory / remote.lstrip("/")).write_bytes(b"CONTENT")
    assert link.push(b"content", remote, sha256(b"content")) == 7


def test_many_files_go_together_and_only_what_is_missing(link: Link) -> None:
    """Also where their paths are too long for one command."""
    contents = [f"file {number}".encode() for number in range(130)]
    folder = f"{TMP}/objects/{'/'.join(['long' * 30] * 5)}"
    pushes = [Push(content, f"{folder}/{sha256(content)}", sha256(content)) for content in contents]
    link.push_all(pushes[:40])
    sent = link.push_all(pushes)
    assert [count > 0 for count in sent.values()] == [False] * 40 + [True] * 90


def test_content_that_is_not_what_was_promised_is_refused_and_leaves_nothing(link: Link, phone: VirtualPhone) -> None:
    with pytest.raises(PushFailed, match="damaged"):
        link.push(b"one", f"{TMP}/object", sha256(b"two"))
    assert list((phone.root.directory / "data/local/tmp").iterdir()) == []


def test_push_where_a_shell_may_not_write_fails_at_once(link: Link) -> None:
    started = time.monotonic()
    with pytest.raises(PushFailed, match="Permission denied"):
        link.push(os.urandom(20_000_000), "/system/bin/tool", "0" * 64)
    assert time.monotonic() - started < 5
    assert link.shell(["echo", "alive"], 5).text == "alive\n"


def test_a_full_phone_is_told_apart(link: Link, phone: VirtualPhone) -> None:
    (phone.root.directory / "capacity_bytes").write_text("1000000")
    data = os.urandom(4_000_000)
    with pytest.raises(PhoneFull) as caught:
        link.push(data, f"{TMP}/big", sha256(data))
    assert caught.value.as_fault().slug == "phone-full"
    assert list((phone.root.directory / "data/local/tmp").iterdir()) == []


def test_pull_of_nothing_fails_and_leaves_nothing(link: Link, tmp_path: Path) -> None:
    with pytest.raises(PullFailed, match="No such file"):
        link.pull(f"{TMP}/nothing", tmp_path / "back")
    assert not list(tmp_path.glob("back*"))


def test_push_survives_a_small_send_buffer(phone: VirtualPhone, session_key: Path) -> None:
    """A socket that takes a part of each payload: adb-shell's own transport hangs here."""
    data = os.urandom(5_000_000)

    def shrink(connected: socket.socket) -> None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    with Link.connect(phone.address, session_key, configure=shrink) as link:
        assert link.push(data, f"{TMP}/object", sha256(data), timeout=60) == len(data)


def test_a_daemon_killed_during_a_push_is_an_error_long_before_the_deadline(tmp_path: Path, session_key: Path) -> None:
    command = [sys.executable, "-m", "device_agent.virtual", "--root", str(tmp_path / "phone"), "--accept-first-key"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        address = daemon.stdout.readline().strip()
        with Link.connect(address, session_key) as link:
            tmp = tmp_path / "phone/data/local/tmp"

            def kill() -> None:
                eventually(lambda: any(path.stat().st_size > 1_000_000 for path in tmp.iterdir()))
                daemon.kill()

            killer = threading.Thread(target=kill)
            killer.start()
            started = time.monotonic()
            with pytest.raises(PhoneUnreachable):
                link.push(bytes(800_000_000), f"{TMP}/object", "0" * 64, timeout=120)
            killer.join()
            assert time.monotonic() - started < 30


def test_a_daemon_killed_during_a_silent_command_is_noticed(tmp_path: Path, session_key: Path) -> None:
    """An orderly end of the connection, which adb-shell takes for silence until its deadline."""
    command = [sys.executable, "-m", "device_agent.virtual", "--root", str(tmp_path / "phone"), "--accept-first-key"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        address = daemon.stdout.readline().strip()
        with Link.connect(address, session_key) as link:
            timer = threading.Timer(0.5, daemon.kill)
            timer.start()
            started = time.monotonic()
            with pytest.raises(PhoneUnreachable):
                link.shell(["sleep", "3"], 20)
            assert time.monotonic() - started < 10


def test_what_a_killed_daemon_ran_is_gone_with_it(tmp_path: Path, session_key: Path) -> None:
    command = [sys.executable, "-m", "device_agent.virtual", "--root", str(tmp_path / "phone"), "--accept-first-key"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        address = daemon.stdout.readline().strip()
        with Link.connect(address, session_key) as link:

            def run() -> None:
                with pytest.raises(PhoneUnreachable):
                    link.shell(["sh", "-c", f"echo $$ > {TMP}/pid; exec sleep 60"], 20)

            thread = threading.Thread(target=run)
            thread.start()
            file = tmp_path / "phone/data/local/tmp/pid"
            eventually(lambda: file.exists() and file.read_text() != "")
            daemon.kill()
            eventually(lambda: not Path(f"/proc/{file.read_text().strip()}").exists())
            thread.join(20)


def test_a_daemon_that_is_asked_to_stop_stops(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "device_agent.virtual", "--root", str(tmp_path / "phone")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline().startswith("127.0.0.1:")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0


@pytest.mark.parametrize("address", ["", "h ost", "host:", ":5555", "host:0", "host:99999", "a b:1", "-x:1", "h;id:1"])
def test_addresses_are_checked(address: str, session_key: Path) -> None:
    with pytest.raises(AddressInvalid):
        Link.connect(address, session_key)


def test_nobody_at_the_address(session_key: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(PhoneUnreachable, match="not reachable"):
        Link.connect(f"127.0.0.1:{port}", session_key, 5)


def test_somebody_else_at_the_address(session_key: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64))
                client.recv(1024)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(PhoneUnreachable, match="does not speak ADB"):
            Link.connect(f"127.0.0.1:{server.getsockname()[1]}", session_key, 5)
        thread.join()


def test_silence_at_the_address_ends_at_the_deadline(session_key: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(DeadlineExceeded):
        Link.connect(f"127.0.0.1:{server.getsockname()[1]}", session_key, 0.5)


def test_the_first_key_is_accepted_and_no_other(phone: VirtualPhone, session_key: Path, tmp_path: Path) -> None:
    Link.connect(phone.address, session_key).close()
    other = ensure_key(tmp_path / "other")
    with pytest.raises(PhoneUnauthorised) as caught:
        Link.connect(phone.address, other, 3)
    assert "Allow USB debugging" in caught.value.advice
    Link.connect(phone.address, session_key).close()


def test_a_key_is_let_in_when_its_prompt_is_accepted(phone: VirtualPhone, session_key: Path, tmp_path: Path) -> None:
    Link.connect(phone.address, session_key).close()
    other = ensure_key(tmp_path / "other")

    def accept() -> None:
        with phone.root.keys.open("ab") as keys:
            keys.write(Signer(other).GetPublicKey() + b"\n")

    timer = threading.Timer(0.5, accept)
    timer.start()
    with Link.connect(phone.address, other, 10.0) as link:
        assert link.shell(["echo", "in"], 5).text == "in\n"


def test_a_stolen_public_key_opens_nothing(phone: VirtualPhone, session_key: Path, tmp_path: Path) -> None:
    """The public key is no secret: whoever presents it without having signed with it is cut off."""
    Link.connect(phone.address, session_key).close()

    class Thief(Signer):
        def GetPublicKey(self) -> bytes:
            return Signer(session_key).GetPublicKey()

    host, port = phone.address.split(":")
    with pytest.raises(PhoneUnreachable):
        Wire(TcpTransport(host, int(port))).connect([Thief(ensure_key(tmp_path / "thief"))], 5.0)


def test_keys_are_private_and_the_users_own_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ensure_key(tmp_path / "data" / "adbkey")
    assert made.stat().st_mode & 0o777 == 0o600
    own = Path.home() / ".android" / "adbkey"
    own.parent.mkdir()
    elsewhere = tmp_path / "android"
    elsewhere.mkdir()
    (elsewhere / "adbkey").write_bytes(made.read_bytes())
    monkeypatch.setenv("ANDROID_USER_HOME", str(elsewhere))
    assert ensure_key(tmp_path / "data" / "adbkey") == elsewhere / "adbkey"
    monkeypatch.delenv("ANDROID_USER_HOME")
    own.write_bytes(made.read_bytes())
    assert ensure_key(tmp_path / "data" / "adbkey") == own
    own.write_text("not a key")
    with pytest.raises(KeyUnusable):
        Signer(own)


def test_public_keys_round_trip_and_agree_with_adb_shells_encoder(session_key: Path) -> None:
    import base64

    from adb_shell.auth.keygen import encode_pubkey

    encoded = Signer(session_key).GetPublicKey().split()[0]
    assert encoded == base64.b64encode(encode_pubkey(str(session_key)))
    assert encode_public_key(decode_public_key(encoded)) == encoded
    token = os.urandom(20)
    assert signed_by(encoded, token, Signer(session_key).Sign(token))
    assert not signed_by(encoded, os.urandom(20), Signer(session_key).Sign(token))


def test_the_daemon_refuses_to_listen_beyond_loopback(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.2", "::", "localhost.example"):
        with pytest.raises(NotLoopback):
            VirtualPhone(tmp_path / "phone", host=host)
    assert not (tmp_path / "phone").exists()


def test_paths_do_not_leave_the_phones_directory(tmp_path: Path) -> None:
    root = PhoneRoot(tmp_path / "phone")
    (root.directory / "data/local/tmp/out").symlink_to("/etc")
    for path in ("/../../etc/passwd", "/data/local/tmp/../../../../x", "/data/local/tmp/out/passwd", "../x"):
        with pytest.raises(PermissionError):
            root.locate(path)
    with pytest.raises(RootUnusable, match="shell interprets"):
        PhoneRoot(tmp_path / "a b")


def test_only_paths_that_begin_with_a_known_prefix_are_rewritten(tmp_path: Path) -> None:
    root = PhoneRoot(tmp_path / "phone")
    at = str(root.directory)
    assert root.rewrite("cat /data/local/tmp/x '/sys/devices/system/cpu/online'") == (
        f"cat {at}/data/local/tmp/x '{at}/sys/devices/system/cpu/online'"
    )
    assert root.rewrite("df /data; ls /database /data-x") == f"df {at}/data; ls /database /data-x"
    for untouched in (f"{at}/data/local/tmp/x", "cat /proc/self/status /proc/loadavg", "x/data/local/tmp"):
        assert root.rewrite(untouched) == untouched
