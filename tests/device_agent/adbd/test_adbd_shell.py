"""Commands under AOSP's own daemon and a real shell."""

import signal
from pathlib import Path

from real_daemon import RealDaemon, alone


def test_the_daemon_hears_nobody_outside_its_namespace(daemon: RealDaemon) -> None:
    assert alone()


def test_round_trip_with_exit_code_and_two_outputs(daemon: RealDaemon, session_key: Path) -> None:
    with daemon.link(session_key) as link:
        done = link.shell(["sh", "-c", "echo out; echo err >&2; exit 42"], 30)
        assert (done.exit_code, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
        assert link.shell(["sh", "-c", "kill -SEGV $$"], 30).exit_code == 128 + signal.SIGSEGV
        assert link.shell(["no-such-program"], 30).exit_code == 127
