"""Settings changed on a phone are put back: at the end, when the bench is killed, and by the next bench."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_examples import eventually, measure_job, program, sha256, stub_bundle

from device_agent.adb import Link
from device_agent.bench import HOME, Bench
from device_agent.contracts import MeasureJob, Measurement, Protocol, Setting
from device_agent.settings import SettingsSession, heal, over_the_air
from device_agent.virtual import VirtualPhone

ALL: tuple[Setting, ...] = ("airplane-mode", "stay-awake", "fixed-performance", "screen-off")
AS_SOLD = ("0", "0", "false", "Awake")
CHANGED = ("1", "3", "true", "Asleep")

# A bench in a process of its own, so that it can be killed. On a cool phone it waits in a block for ever, on a hot one
# at the gate. The phone waits for it for 8 s.
CLIENT = """
import sys
from pathlib import Path
from bench_examples import program, sha256, stub_bundle
from device_agent.adb import Link
from device_agent.bench import Bench
from device_agent.contracts import Gates, MeasureJob, Protocol

address, key, directory = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
(directory / "slow").write_bytes(b"slow")
settings = ("airplane-mode", "stay-awake", "fixed-performance", "screen-off")
protocol = Protocol(settings=settings, gates=Gates(wait_seconds=600, poll_seconds=1))
with Link.connect(address, key) as link:
    bench = Bench(link, stub_bundle(directory / "runner"), serial="phone:1", lease_seconds=8)
    bench.run(MeasureJob(program=program(b"slow"), protocol=protocol), {sha256(b"slow"): directory / "slow"})
"""


def settings_of(phone: VirtualPhone) -> tuple[str, ...]:
    root = phone.root.directory
    power = dict(line.strip().split("=") for line in (root / "dumpsys/power").read_text().splitlines() if "=" in line)
    names = ("airplane_mode_on", "stay_on_while_plugged_in")
    return (
        *((root / "settings/global" / name).read_text().strip() for name in names),
        power["mFixedPerformanceMode"],
        power["mWakefulness"],
    )


def home_of(phone: VirtualPhone) -> Path:
    return phone.root.directory / HOME.lstrip("/")


def test_a_session_changes_and_puts_back(link: Link, phone: VirtualPhone) -> None:
    with SettingsSession(link, HOME, ALL) as session:
        assert settings_of(phone) == CHANGED
    assert settings_of(phone) == AS_SOLD
    assert [(change.was, change.applied, change.restored) for change in session.changes] == [
        ("0", True, True),
        ("0", True, True),
        ("off", True, True),
        ("Awake", True, True),
    ]
    assert not (home_of(phone) / "settings.journal").exists()


def test_what_was_set_already_stays_so(link: Link, phone: VirtualPhone) -> None:
    (phone.root.directory / "settings/global/stay_on_while_plugged_in").unlink()
    (phone.root.directory / "settings/global/airplane_mode_on").write_text("1\n")
    with SettingsSession(link, HOME, ("airplane-mode", "stay-awake")) as session:
        pass
    assert [change.restored for change in session.changes] == [True, True]
    assert (phone.root.directory / "settings/global/airplane_mode_on").read_text() == "1\n"
    assert not (phone.root.directory / "settings/global/stay_on_while_plugged_in").exists()


def test_a_change_that_the_phone_refuses_is_said(link: Link, phone: VirtualPhone) -> None:
    command = phone.root.directory / "system/bin/cmd"
    command.write_text("#!/bin/sh\necho 'no such command'; exit 20\n")
    with SettingsSession(link, HOME, ("fixed-performance",)) as session:
        pass
    change = session.changes[0]
    assert (change.applied, change.restored, change.note) == (False, False, "no such command")
    assert (home_of(phone) / "settings.journal").exists()  # the next bench tries again
    command.write_text("#!/bin/sh\nexit 0\n")
    heal(link, HOME)
    assert not (home_of(phone) / "settings.journal").exists()


@pytest.mark.parametrize("while_running", [True, False])
def test_a_bench_that_is_killed_leaves_the_phone_as_it_was(
    phone: VirtualPhone, session_key: Path, tmp_path: Path, while_running: bool
) -> None:
    if not while_running:
        battery = phone.root.directory / "dumpsys/battery"
        battery.write_text(battery.read_text().replace("temperature: 309", "temperature: 386"))
    path = [str(Path(__file__).parent), *filter(None, sys.path)]
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, phone.address, str(session_key), str(tmp_path)],
        env={"PYTHONPATH": ":".join(path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    try:
        eventually(lambda: settings_of(phone) == CHANGED, 120)
        if while_running:
            eventually((home_of(phone) / "slow.pid").exists, 120)
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    eventually(lambda: settings_of(phone) == AS_SOLD, 120)
    eventually(lambda: not (home_of(phone) / "settings.journal").exists(), 120)


def test_a_bench_that_lives_keeps_its_settings_beyond_the_lease(link: Link, phone: VirtualPhone) -> None:
    with SettingsSession(link, HOME, ("stay-awake",), lease_seconds=10) as session:
        for _ in range(12):
            time.sleep(1)
            session.renew()
        assert settings_of(phone)[1] == "3"
    assert session.changes[0].restored


def test_a_bench_that_was_taken_for_gone_changes_nothing_more(link: Link, phone: VirtualPhone) -> None:
    with SettingsSession(link, HOME, ("stay-awake",)) as session:
        (home_of(phone) / "settings.journal").write_text("session another\n")
        late = session._change("screen-off")
        assert (late.applied, late.note) == (False, "the phone took the bench for gone")
        assert settings_of(phone)[3] == "Awake"


def test_a_phone_that_was_left_changed_is_healed_by_the_next_bench(
    link: Link, phone: VirtualPhone, tmp_path: Path
) -> None:
    home_of(phone).mkdir(parents=True)
    (home_of(phone) / "settings.journal").write_text("session gone\nstay-awake 0\nscreen-off Awake\n")
    link.script("settings put global stay_on_while_plugged_in 3; input keyevent 223", timeout=20)
    (tmp_path / "fine").write_bytes(b"fine")
    bench = Bench(link, stub_bundle(tmp_path / "runner"), serial="phone:1")
    bench.run(measure_job(), {sha256(b"fine"): tmp_path / "fine"})
    assert settings_of(phone) == AS_SOLD


def test_a_measurement_records_its_settings(link: Link, phone: VirtualPhone, tmp_path: Path) -> None:
    (tmp_path / "fine").write_bytes(b"fine")
    bench = Bench(link, stub_bundle(tmp_path / "runner"), serial="phone:1")
    protocol = Protocol(repetitions=2, settings=("stay-awake",))
    result = bench.run(MeasureJob(program=program(b"fine"), protocol=protocol), {sha256(b"fine"): tmp_path / "fine"})
    assert isinstance(result, Measurement)
    assert [(c.setting, c.was, c.applied, c.restored) for c in result.settings] == [("stay-awake", "0", True, True)]


def test_airplane_mode_never_cuts_its_own_link() -> None:
    assert over_the_air("192.168.1.7:5555")
    assert over_the_air("phone.local:5555")
    assert over_the_air("adb-R5CX1234567-a1b2c3._adb-tls-connect._tcp")
    assert not over_the_air("127.0.0.1:5599")
    assert not over_the_air("localhost:5599")
    assert not over_the_air("R5CX1234567")
