"""The judge of the virtual phone: Google's own adb client, out of adbutils' wheel."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from adb_client import Adb
from adb_shell.adb_device import AdbDeviceTcp
from bench_examples import eventually

from device_agent.adb.keys import Signer
from device_agent.virtual import VirtualPhone, running

TMP = "/data/local/tmp"


@pytest.fixture(scope="module")
def adb_phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualPhone]:
    with running(tmp_path_factory.mktemp("adb") / "phone", accept_first_key=True) as started:
        yield started


@pytest.fixture(scope="module")
def connected(adb_phone: VirtualPhone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adb]:
    """Starting adb's server takes seconds, so one is shared by the tests of this file."""
    client = Adb(tmp_path_factory.mktemp("adb-home"))
    client("connect", adb_phone.address)  # says "failed to authenticate" while the prompt is up, then goes on
    eventually(lambda: f"{adb_phone.address}\tdevice".encode() in client("devices").stdout)
    yield client
    client("kill-server")


def test_shell_has_exit_codes_and_two_outputs(connected: Adb) -> None:
    done = connected("shell", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_shell_takes_standard_input(connected: Adb) -> None:
    data = os.urandom(200_000)
    assert connected("shell", "wc -c", data=data).stdout.split() == [b"200000"]


def test_exec_out_is_binary(connected: Adb) -> None:
    assert connected("exec-out", "printf 'a\\r\\n\\0b'").stdout == b"a\r\n\0b"


def test_it_says_that_it_is_a_galaxy_s24_and_virtual(connected: Adb) -> None:
    assert b"model:SM_S921B" in connected("devices", "-l").stdout
    assert connected("shell", "getprop", "ro.product.model").stdout == b"SM-S921B\n"
    assert connected("shell", "getprop", "ro.fulcrum.virtual").stdout == b"1\n"
    assert connected("shell", "cat /sys/devices/system/cpu/cpufreq/policy9/cpuinfo_max_freq").stdout == b"3207000\n"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("cat /sys/devices/system/cpu/cpu9/cpufreq/scaling_max_freq", "3207000"),
        ("cat /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq | sort -u | wc -l", "4"),
        ("cat /sys/devices/system/cpu/present", "0-9"),
        ("cat /sys/class/power_supply/battery/capacity", "100"),
        ("cat /sys/class/thermal/thermal_zone*/type | wc -l", "5"),
        ("grep -c ^processor /proc/cpuinfo; nproc", "10\n10"),
        ("uname -m; uname -sr; whoami; id -u", "aarch64\nLinux 6.1.43-android14-11\nshell\n2000"),
        ("df /data | wc -l; ls /data", "2\nlocal\nmisc"),
    ],
)
def test_its_files_and_tools_answer_like_an_s24s(connected: Adb, command: str, answer: str) -> None:
    assert connected("shell", command).stdout.decode().strip() == answer


def test_a_shell_reads_its_commands_from_standard_input(connected: Adb) -> None:
    done = connected("shell", data=f"echo one > {TMP}/said\ncat {TMP}/said; exit 4".encode())
    assert (done.returncode, done.stdout) == (4, b"one\n")


def test_a_client_that_leaves_with_output_unread_blocks_nobody(connected: Adb) -> None:
    with connected.start("shell", "echo $$; exec yes") as endless:
        assert endless.stdout is not None
        pid = int(endless.stdout.readline())
        eventually(lambda: Path(f"/proc/{pid}/comm").read_text() == "yes\n")
        endless.kill()
    assert connected("shell", "echo alive").stdout == b"alive\n"
    eventually(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("words", [("reboot",), ("root",), ("tcpip", "5555"), ("reverse", "tcp:7", "tcp:8")])
def test_what_it_does_not_offer_it_refuses(connected: Adb, words: tuple[str, ...]) -> None:
    done = connected(*words)
    assert done.returncode == 1
    assert b"closed" in done.stderr
    assert connected("get-state").stdout == b"device\n"


def test_settings_persist(connected: Adb, adb_phone: VirtualPhone) -> None:
    connected("shell", "settings put global stay_on_while_plugged_in 3")
    assert connected("shell", "settings get global stay_on_while_plugged_in").stdout == b"3\n"
    assert connected("shell", "settings get global nothing").stdout == b"null\n"
    assert (adb_phone.root.directory / "settings/global/stay_on_while_plugged_in").read_text() == "3\n"


def test_push_and_pull_are_whole(connected: Adb, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    (tmp_path / "file").write_bytes(data)
    pushed = connected("push", str(tmp_path / "file"), f"{TMP}/new/folder/file")
    assert (pushed.returncode, pushed.stderr) == (0, pushed.stderr)
    assert connected("pull", f"{TMP}/new/folder/file", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == data


def test_folders_travel_too(connected: Adb, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/one").write_text("1")
    (tmp_path / "tree/sub/two").write_text("2")
    assert connected("push", str(tmp_path / "tree"), TMP).returncode == 0
    assert connected("pull", f"{TMP}/tree", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back/sub/two").read_text() == "2"
    listed = connected("ls", f"{TMP}/tree").stdout.decode()
    assert {line.split()[-1] for line in listed.splitlines()} >= {"one", "sub"}


def test_links_travel_as_links_and_do_not_lead_out(connected: Adb, adb_phone: VirtualPhone, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("content")
    (tmp_path / "tree/inside").symlink_to("file")
    assert connected("push", str(tmp_path / "tree"), f"{TMP}/links").returncode == 0
    assert (adb_phone.root.directory / "data/local/tmp/links/inside").readlink() == Path("file")
    (tmp_path / "tree/outside").symlink_to("/etc/passwd")
    assert connected("push", str(tmp_path / "tree"), f"{TMP}/links").returncode != 0
    assert not (adb_phone.root.directory / "data/local/tmp/links/outside").is_symlink()
    assert connected("ls", "/").stdout.split()[-1] == b"system"


def test_push_beyond_the_writable_folders_is_refused_with_the_reason(connected: Adb, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))
    done = connected("push", str(tmp_path / "file"), "/system/bin/file")
    assert done.returncode != 0
    assert b"Permission denied" in done.stderr + done.stdout


def test_pull_of_what_is_not_there_fails(connected: Adb, tmp_path: Path) -> None:
    assert connected("pull", f"{TMP}/nothing", str(tmp_path / "back")).returncode != 0


def test_an_unknown_client_is_unauthorised_until_its_key_is_accepted(connected: Adb, tmp_path: Path) -> None:
    with running(tmp_path / "phone") as stranger:
        connected("connect", stranger.address)
        assert f"{stranger.address}\tunauthorized".encode() in connected("devices").stdout
        assert connected("-s", stranger.address, "shell", "true").returncode != 0
        stranger.root.keys.write_bytes(Signer(connected.key).GetPublicKey() + b"\n")
        eventually(lambda: f"{stranger.address}\tdevice".encode() in connected("devices").stdout)
        assert connected("-s", stranger.address, "shell", "exit 5").returncode == 5
        connected("disconnect", stranger.address)


def test_unmended_adb_shell_gets_the_checksums_it_insists_on(phone: VirtualPhone, session_key: Path) -> None:
    host, port = phone.address.split(":")
    device = AdbDeviceTcp(host, int(port), default_transport_timeout_s=5)
    device.connect(rsa_keys=[Signer(session_key)], auth_timeout_s=5)
    assert device.shell("echo old") == "old\n"
    device.close()
