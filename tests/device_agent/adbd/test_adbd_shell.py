"""Commands under AOSP's own daemon and Android's own shell: what arrives, what comes back, what is gone with us."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_examples import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy import Proxy
from real_daemon import RealDaemon, alone

from device_agent.adb import DeadlineExceeded, Link, PhoneUnreachable

_GROUP = "cut -d' ' -f5 /proc/self/stat"


@pytest.fixture
def link(daemon: RealDaemon, session_key: Path) -> Iterator[Link]:
    with daemon.link(session_key) as connected:
        yield connected


def group(number: int) -> list[str]:
    """What runs in a process group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == number and fields[0] != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_the_daemon_hears_nobody_outside_its_namespace(daemon: RealDaemon) -> None:
    assert alone()
    assert "\nSeccomp:\t2\n" in Path(f"/proc/{daemon.pid}/status").read_text()
    assert Path(f"/proc/{daemon.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()


def test_round_trip_with_exit_code_and_two_outputs(link: Link) -> None:
    assert "MIRBSD KSH" in link.script("echo $KSH_VERSION", timeout=30)
    done = link.shell(["sh", "-c", "echo out; echo err >&2; exit 42"], 30)
    assert (done.exit_code, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    dead = link.shell(["sh", "-c", "kill -SEGV $$"], 30)
    assert (dead.exit_code, dead.stderr) == (128 + signal.SIGSEGV, b"")
    assert link.shell(["no-such-program"], 30).exit_code == 127
    assert link.shell(["cat"], 30).stdout == b""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=40).map(lambda word: word.replace(b"\0", b"")), max_size=5), st.binary(max_size=40))
def test_any_bytes_arrive_as_they_were_given(link: Link, words: list[bytes], value: bytes) -> None:
    variable = value.replace(b"\0", b"").decode(errors="surrogateescape")
    done = link.shell(["printf", "%s\\0", "", *words], 30, env={"WORD": variable})
    assert done.stdout == b"\0" + b"".join(word + b"\0" for word in words)
    shown = link.shell(["sh", "-c", 'printf %s "$WORD"'], 30, env={"WORD": variable})
    assert shown.stdout == value.replace(b"\0", b"")


def test_a_command_that_ended_leaves_nothing(link: Link) -> None:
    number = int(link.script(_GROUP, timeout=10))
    eventually(lambda: group(number) == [])


def test_leaving_early_ends_all_that_was_started_even_what_ignores_a_hangup(link: Link) -> None:
    script = f"{_GROUP}; trap '' HUP; sleep 1111 & (trap '' HUP TERM; sleep 2222; sleep 3333) & wait"
    with link.running(["sh", "-c", script], 60) as run:
        number = int(next(iter(run)))
        eventually(lambda: {"sleep 1111 ", "sleep 2222 "} <= set(group(number)))
    eventually(lambda: group(number) == [])
    with link.running(["yes"], 60) as run:
        assert next(iter(run)) == "y"
    assert link.shell(["echo", "alive"], 30).text == "alive\n"


def test_what_is_to_outlive_us_can(link: Link, tmp_path: Path) -> None:
    """The way to have a phone tidy up when its host is gone."""
    tidy = "echo up; exec >/dev/null 2>&1; while [ ! -e go ]; do sleep 0.1; done; touch tidied"
    with link.running(["sh", "-c", f"cd {tmp_path}; {_GROUP}; setsid sh -c '{tidy}' & wait"], 60) as run:
        lines = iter(run)
        number = int(next(lines))
        assert next(lines) == "up"
    eventually(lambda: group(number) == [])
    (tmp_path / "go").touch()
    eventually(lambda: (tmp_path / "tidied").exists())


def test_what_is_left_in_the_background_survives_the_commands_own_end(link: Link, tmp_path: Path) -> None:
    """Also when it had no time to leave the group."""
    for turn in range(10):
        link.script(f"setsid sh -c 'sleep 0.2; touch {tmp_path}/left-{turn}' </dev/null >/dev/null 2>&1 &", timeout=30)
    eventually(lambda: len(list(tmp_path.glob("left-*"))) == 10)


def test_a_deadline_is_kept_and_ends_the_command(link: Link, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        link.shell(["sh", "-c", f"{_GROUP} > {tmp_path}/group; sleep 4444"], 4)
    assert time.monotonic() - started < 30
    number = int((tmp_path / "group").read_text())
    eventually(lambda: group(number) == [])


def test_a_phone_that_never_stops_talking_is_stopped_too(link: Link) -> None:
    with pytest.raises(DeadlineExceeded), link.running(["yes"], 1) as run:
        for _ in run.chunks():
            pass


def test_a_host_that_falls_silent_leaves_no_command_beyond_its_deadline(daemon: RealDaemon, session_key: Path) -> None:
    """The connection dies without a word: the daemon believes in it for hours."""
    with Proxy(daemon.address) as proxy, Link.connect(proxy.address, session_key, 30) as link:
        run = link.running(["sh", "-c", f"{_GROUP}; sleep 5555"], 6)
        number = int(next(iter(run.__enter__())))
        eventually(lambda: "sleep 5555 " in group(number))
        proxy.swallow()
        link.close()
        eventually(lambda: group(number) == [], 60)


def test_a_phone_that_reboots_during_a_command_is_an_error_and_comes_back(
    daemon: RealDaemon, session_key: Path
) -> None:
    with daemon.link(session_key) as link:
        killer = threading.Timer(0.3, daemon.kill)
        started = time.monotonic()
        with link.running(["sh", "-c", f"{_GROUP}; sleep 6666"], 200) as run:
            number = int(next(lines := iter(run)))
            killer.start()
            with pytest.raises(PhoneUnreachable):
                next(lines)
        assert time.monotonic() - started < 100
        killer.join()
        eventually(lambda: group(number) == [])
        with pytest.raises(PhoneUnreachable):
            link.shell(["true"], 5)
    daemon.start()
    with daemon.link(session_key) as link:
        assert link.shell(["echo", "back"], 30).text == "back\n"
