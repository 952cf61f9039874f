"""`make bench-link`: our link beside Google's adb against AOSP's own daemon, by turns in one run; medians and ratios.

All move the same incompressible file over loopback. adb goes through its server, as it always does; "server" is our
link through the same one. "-Z" is adb without compression. "verified" is a push and the phone's own sha256sum of what
arrived, which is how Fulcrum pushes; with adb that takes a second command. A round trip of ours is a command on an open
link, one of adb's is a client process.
"""

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "adbd"))

from adb_client import Adb
from real_daemon import ADDRESS, RealDaemon, alone

from device_agent.adb import Link, ensure_key, sync

_TRIPS = 20


def _enter_namespace() -> None:
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", "--net", "--mount", *mapped, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable]
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.execvp("unshare", [*words, *sys.argv])


def _timed(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


class _Bench:
    def __init__(self, home: Path, megabytes: int) -> None:
        self.bytes = megabytes * 1_000_000
        self.local, self.back = home / "local", home / "back"
        self.remote = str(home / "remote")
        data = os.urandom(self.bytes)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.local.write_bytes(data)
        self.adb = Adb(home)
        self._adb("connect", ADDRESS)
        key = ensure_key(home / "key")
        self.link = Link.connect(ADDRESS, key, 30)
        os.environ["ANDROID_ADB_SERVER_PORT"] = str(self.adb.port)
        self.through = Link.connect(ADDRESS, key, 30)

    def _adb(self, *words: str) -> None:
        done = self.adb(*words)
        if done.returncode:
            raise SystemExit(f"adb {words[0]}: {done.stderr.decode()}")

    def _send(self, link: Link) -> None:
        sync.send(link._channel, self.local, self.remote, 0o644, time.monotonic() + 120)

    def _verified(self) -> None:
        Path(self.remote).unlink(missing_ok=True)
        self.link.push(self.local, self.remote, self.sha256)

    def _adb_verified(self) -> None:
        self._adb("push", "-Z", str(self.local), self.remote)
        self._adb("shell", "sha256sum", self.remote)

    def _trips(self, link: Link) -> None:
        for _ in range(_TRIPS):
            link.shell(["/bin/true"], 30)

    def transfers(self) -> dict[str, Callable[[], object]]:
        local, remote, back = str(self.local), self.remote, str(self.back)
        return {
            "push": lambda: self._send(self.link),
            "push, server": lambda: self._send(self.through),
            "push, adb": lambda: self._adb("push", local, remote),
            "push, adb -Z": lambda: self._adb("push", "-Z", local, remote),
            "verified": self._verified,
            "verified, adb -Z": self._adb_verified,
            "pull": lambda: self.link.pull(remote, self.back),
            "pull, server": lambda: self.through.pull(remote, self.back),
            "pull, adb": lambda: self._adb("pull", remote, back),
            "pull, adb -Z": lambda: self._adb("pull", "-Z", remote, back),
        }

    def trips(self) -> dict[str, Callable[[], object]]:
        return {
            "shell": lambda: self._trips(self.link),
            "shell, server": lambda: self._trips(self.through),
            "shell, adb": lambda: [self._adb("shell", "/bin/true") for _ in range(_TRIPS)],
        }


def _report(seconds: dict[str, list[float]], figure: Callable[[float], float], unit: str) -> None:
    """A line for each: median, range, and how many times as fast as the fastest adb of its kind."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        kind, _, who = name.partition(", ")
        best = min(median for other, median in medians.items() if other.startswith(f"{kind}, adb"))
        beside = "" if who.startswith("adb") else f"  {best / medians[name]:.2f} times as fast as adb"
        low, high = sorted((figure(min(values)), figure(max(values))))
        print(f"{name:18}{figure(medians[name]):8.1f} {unit}  ({low:.1f} to {high:.1f}){beside}")


def _run(calls: dict[str, Callable[[], object]], rounds: int, figure: Callable[[float], float], unit: str) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(_timed(call))
    _report(seconds, figure, unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    if not alone():
        _enter_namespace()
    with tempfile.TemporaryDirectory() as home, RealDaemon():
        bench = _Bench(Path(home), options.megabytes)
        try:
            _run(bench.transfers(), options.rounds, lambda seconds: bench.bytes / seconds / 1e6, "MB/s")
            _run(bench.trips(), options.rounds, lambda seconds: seconds / _TRIPS * 1e3, "ms")
        finally:
            bench.adb("kill-server")


if __name__ == "__main__":
    main()
