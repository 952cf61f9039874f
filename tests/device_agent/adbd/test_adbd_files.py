"""Files under AOSP's own daemon: whole or an error, over bad networks and full disks, and never beyond a deadline."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench_examples import eventually, sha256
from proxy import Proxy
from real_daemon import RealDaemon

from device_agent.adb import DeadlineExceeded, Link, PhoneFull, PhoneUnreachable, PullFailed, PushFailed, sync

DATA = os.urandom(6_000_000)
HASH = sha256(DATA)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the phone's files go; the daemon sees this host's."""
    folder = tmp_path / "phone"
    folder.mkdir()
    return folder


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_push_is_verified_kept_and_pulled_back(daemon: RealDaemon, session_key: Path, place: Path) -> None:
    remote = f"{place}/deep/er/a b'c"
    local = place / "local"
    local.write_bytes(DATA)
    with daemon.link(session_key) as link:
        assert link.push(local, remote, HASH, 0o755) == len(DATA)
        assert link.push(local, remote, HASH, 0o755) == 0
        assert Path(remote).stat().st_mode & 0o777 == 0o755
        assert link.pull(remote, place / "back") == len(DATA)
        assert (place / "back").read_bytes() == Path(remote).read_bytes() == DATA
        link.push(b"", f"{place}/empty", sha256(b""))
        assert link.pull(f"{place}/empty", place / "back") == 0


def test_a_full_phone_is_told_apart_and_keeps_nothing(daemon: RealDaemon, session_key: Path, full: Path) -> None:
    with daemon.link(session_key) as link:
        with pytest.raises(PhoneFull):
            link.push(DATA, f"{full}/big", HASH)
        assert link.shell(["ls", "-A", str(full)], 30).text == ""
        assert link.push(b"small", f"{full}/small", sha256(b"small")) == 5


def test_the_reason_of_a_refusal_comes_long_before_the_end(daemon: RealDaemon, session_key: Path, place: Path) -> None:
    """adb-shell sends all of it first, and then waits for an answer until its timeout."""
    (place / "file").touch()
    with daemon.link(session_key) as link:
        started = time.monotonic()
        with pytest.raises(PushFailed, match=r"irectory"):
            sync.send(link._channel, bytes(300_000_000), f"{place}/file/object", 0o644, started + 200)
        assert time.monotonic() - started < 60
        with pytest.raises(PullFailed, match="No such file"):
            link.pull(f"{place}/nothing", place / "back")
        assert not (place / "back").exists()


def test_a_slow_and_distant_link_is_only_slow(daemon: RealDaemon, session_key: Path, place: Path) -> None:
    with Proxy(daemon.address, rate=20e6, delay=0.002) as proxy, Link.connect(proxy.address, session_key, 30) as link:
        assert link.push(DATA, f"{place}/object", HASH, timeout=200) == len(DATA)
        assert link.pull(f"{place}/object", place / "back", timeout=200) == len(DATA)
    assert (place / "object").read_bytes() == (place / "back").read_bytes() == DATA


def _push(link: Link, place: Path, timeout: float) -> None:
    link.push(bytes(300_000_000), f"{place}/object", "0" * 64, timeout=timeout)


def _pull(link: Link, place: Path, timeout: float) -> None:
    link.pull(f"{place}/zeros", place / "back", timeout=timeout)


@pytest.mark.parametrize("move", [_push, _pull])
@pytest.mark.parametrize("end", ["cut", "swallow"])
def test_a_link_that_breaks_during_a_transfer_is_an_error_in_time(
    daemon: RealDaemon, session_key: Path, place: Path, end: str, move: Callable[[Link, Path, float], None]
) -> None:
    with (place / "zeros").open("wb") as file:
        file.truncate(300_000_000)
    with Proxy(daemon.address, rate=30e6) as proxy, Link.connect(proxy.address, session_key, 30) as link:
        breaker = threading.Timer(1.0, getattr(proxy, end))
        breaker.start()
        started = time.monotonic()
        with pytest.raises(PhoneUnreachable if end == "cut" else DeadlineExceeded):
            move(link, place, 120 if end == "cut" else 3)
        assert time.monotonic() - started < 60
        assert not (place / "object").exists()
        assert not list(place.glob("back*"))
        with pytest.raises(PhoneUnreachable):
            link.shell(["true"], 5)
    with daemon.link(session_key) as link:
        assert link.shell(["echo", "next"], 30).text == "next\n"


def test_a_daemon_killed_during_a_push_is_an_error_and_the_next_push_is_whole(
    daemon: RealDaemon, session_key: Path, place: Path
) -> None:
    def kill() -> None:
        eventually(lambda: any(part.stat().st_size > 1_000_000 for part in place.glob("object*")), 60)
        daemon.kill()

    with Proxy(daemon.address, rate=50e6) as proxy, Link.connect(proxy.address, session_key, 30) as link:
        killer = threading.Thread(target=kill)
        killer.start()
        started = time.monotonic()
        with pytest.raises(PhoneUnreachable):
            _push(link, place, 120)
        killer.join()
        assert time.monotonic() - started < 60
    assert not (place / "object").exists()
    daemon.start()
    with daemon.link(session_key) as link:
        assert link.push(DATA, f"{place}/object", HASH) == len(DATA)
    assert (place / "object").read_bytes() == DATA
