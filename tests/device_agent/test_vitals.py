"""How a phone fares: readings in one round trip, the battery's policy, and what a health check finds."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_agent.adb import Link
from device_agent.contracts import Vitals
from device_agent.health import check
from device_agent.probe import probe
from device_agent.virtual import VirtualPhone
from device_agent.vitals import HOT, LOW, BatteryPolicy, read_vitals

POLICY = BatteryPolicy(min_percent=30, resume_percent=40, max_celsius=45.0, ceiling_percent=80)


def vitals(percent: int | None = 50, celsius: float | None = 30.0, **more: object) -> Vitals:
    known = {"taken_at": datetime.now(UTC), "battery_percent": percent, "battery_celsius": celsius, **more}
    return Vitals.model_validate(known)


@pytest.mark.parametrize(
    ("percent", "celsius", "slug"),
    [
        (30, 45.0, None),
        (29, 30.0, LOW),
        (50, 45.1, HOT),
        (None, None, None),
        (None, 50.0, HOT),
        (10, None, LOW),
    ],
)
def test_a_phone_works_inside_its_policy(percent: int | None, celsius: float | None, slug: str | None) -> None:
    objection = POLICY.objection(vitals(percent, celsius))
    assert (objection.slug if objection else None) == slug


def test_who_rests_comes_back_later_than_it_went() -> None:
    low = POLICY.objection(vitals(29))
    assert POLICY.objection(vitals(39), low) is not None
    assert POLICY.objection(vitals(40), low) is None
    assert POLICY.objection(vitals(40, 44.0), low) is None, "it rested for its charge, not for its heat"
    hot = POLICY.objection(vitals(50, 46.0))
    assert POLICY.objection(vitals(50, 43.0), hot) is not None
    assert POLICY.objection(vitals(50, 42.0), hot) is None
    assert POLICY.objection(vitals(35, 42.0), hot) is None, "it rested for its heat, not for its charge"


def test_charging_too_far_is_said_and_not_hidden() -> None:
    assert "without root" in POLICY.remark(vitals(81, charging=True))
    assert POLICY.remark(vitals(81, charging=False)) == ""
    assert POLICY.remark(vitals(80, charging=True)) == ""


def test_vitals_are_read_in_one_round_trip(link: Link, phone: VirtualPhone) -> None:
    found, serialno = read_vitals(link)
    assert (found.battery_percent, found.battery_celsius, found.battery_health) == (100, 30.9, 2)
    assert found.charging is False
    assert found.free_bytes is not None
    assert found.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert serialno == phone.root.property("ro.serialno")


def test_a_phone_without_a_battery_has_none(link: Link, phone: VirtualPhone) -> None:
    (phone.root.directory / "dumpsys/battery").unlink()
    found, _ = read_vitals(link)
    assert (found.battery_percent, found.battery_celsius, found.charging) == (None, None, None)
    assert POLICY.objection(found) is None
    item = check(link, found, POLICY, 0).items[2]
    assert (item.passed, item.detail) == (True, "the phone names no battery")


def test_a_health_check_names_what_is_wrong(link: Link, phone: VirtualPhone) -> None:
    sound, _ = read_vitals(link)
    assert check(link, sound, POLICY, 0).passed
    bad = sound.model_copy(update={"battery_health": 4, "free_bytes": 1 << 20})
    found = check(link, bad, POLICY, 2 << 20)
    assert [item.passed for item in found.items] == [True, False, False]
    assert "1 MiB free" in found.items[1].detail
    assert "2 MiB needed" in found.items[1].detail
    assert "dead" in found.items[2].detail
    (phone.root.directory / "capacity_bytes").write_text("10")
    assert [item.passed for item in check(link, sound, POLICY, 0).items] == [False, True, True]


def test_a_probe_proves_before_it_reads(phone: VirtualPhone, session_key: Path) -> None:
    (phone.root.directory / "system/bin/sh").unlink()
    (phone.root.directory / "system/bin/sh").symlink_to("/bin/false")
    found = probe(phone.address, session_key)
    assert (found.state, found.vitals, found.facts) == ("unreachable", None, None)
