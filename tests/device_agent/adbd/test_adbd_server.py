"""Through Google's own adb server to AOSP's own daemon."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from adb_client import Adb
from bench_examples import eventually, sha256
from real_daemon import RealDaemon

from device_agent.adb import PhoneUnreachable, discover
from device_agent.adb.server import ServerChannel


@pytest.fixture
def adb(daemon: RealDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Adb]:
    client = Adb(tmp_path)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(client.port))
    client("connect", daemon.address)
    eventually(lambda: f"{daemon.address}\tdevice".encode() in client("devices").stdout)
    yield client
    client("kill-server")


def test_commands_files_and_a_reboot(adb: Adb, daemon: RealDaemon, session_key: Path, tmp_path: Path) -> None:
    assert [(found.serial, found.state) for found in discover()] == [(daemon.address, "device")]
    data = os.urandom(5_000_000)
    with daemon.link(session_key) as link:
        assert isinstance(link._channel, ServerChannel)
        done = link.shell(["sh", "-c", "echo out; echo err >&2; exit 42"], 30)
        assert (done.exit_code, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
        assert link.push(data, f"{tmp_path}/phone/object", sha256(data)) == len(data)
        assert link.pull(f"{tmp_path}/phone/object", tmp_path / "back") == len(data)
        assert (tmp_path / "back").read_bytes() == data
        with link.running(["sh", "-c", "echo $$; sleep 7777"], 60) as run:
            pid = int(next(iter(run)))
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        with link.running(["sh", "-c", "echo up; sleep 8888"], 100) as run:
            lines = iter(run)
            assert next(lines) == "up"
            daemon.kill()
            with pytest.raises(PhoneUnreachable):
                next(lines)
    daemon.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", "1")
        with daemon.link(session_key) as again:
            assert again.shell(["echo", "back"], 30).text == "back\n"
    assert not isinstance(again._channel, ServerChannel)
