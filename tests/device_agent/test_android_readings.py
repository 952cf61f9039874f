"""Parsers on the outputs of real phones, on what is not there, and on anything at all."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phone_outputs import (
    S22_THERMAL,
    S24_CPUINFO,
    S24_HOT_FREQUENCIES,
    S24_HOT_THERMAL,
    S25_THERMAL,
    SAMSUNG_BATTERY,
    SMAPS_ROLLUP,
    STAT,
    STATUS,
)

from device_agent import android
from device_agent.condition import Ticks


def test_only_the_current_and_real_temperatures_count() -> None:
    assert android.temperatures(S22_THERMAL) == {"AP": 39.6, "BAT": 36.3, "PATHM": 40.8, "SKIN": 35.8, "USB": 36.9}
    assert android.thermal_status(S22_THERMAL) == 0
    assert android.temperatures(S25_THERMAL) == {"BAT": 31.2}


def test_the_lowest_float_and_nan_are_no_temperatures() -> None:
    s25 = S22_THERMAL.replace("mValue=39.6", "mValue=-3.4028235E38").replace("mValue=35.8", "mValue=NaN")
    assert set(android.temperatures(s25)) == {"BAT", "PATHM", "USB"}
    assert set(android.temperatures(S22_THERMAL.replace("mValue=39.6", "mValue=3.4028235E38"))) == {
        "BAT",
        "PATHM",
        "SKIN",
        "USB",
    }


def test_a_hal_that_is_not_ready_gives_nothing() -> None:
    assert android.temperatures(S22_THERMAL.replace("HAL Ready: true", "HAL Ready: false")) == {}
    assert android.temperatures("Can't find service: thermalservice") == {}
    assert android.thermal_status("Can't find service: thermalservice") is None
    assert android.thermal_status("Thermal Status: 99") is None


def test_a_throttled_phone_says_status_0_and_its_caps_say_otherwise() -> None:
    assert android.thermal_status(S24_HOT_THERMAL) == 0
    assert android.temperatures(S24_HOT_THERMAL)["SKIN"] == 40.0
    read = android.frequencies(S24_HOT_FREQUENCIES + "policy10\npolicy11 100\npolicy12 x y\npolicy13 1 0\n")
    assert set(read) == {"policy0", "policy4", "policy7", "policy9"}
    allowed, highest = read["policy9"]
    assert round(allowed / highest, 2) == 0.57


def test_clusters_have_their_cores_where_the_phone_says_them() -> None:
    found = android.clusters("policy0 1 2 / 0 1 2 3\npolicy4 3 4 /\npolicy7 5 6\npolicy8 2900000 / 7 8\n")
    assert found["policy0"] == android.Cluster(1, 2, (0, 1, 2, 3))
    assert found["policy4"].cores == found["policy7"].cores == ()
    assert "policy8" not in found  # one frequency missing: nobody takes the cores for it


def test_the_first_of_each_battery_key_counts() -> None:
    values = android.battery(SAMSUNG_BATTERY)
    assert android.battery_percent(values) == 100
    assert android.battery_celsius(values) == 30.9
    assert android.charge_uah(values) == 4_015_000  # and not Samsung's lower-case 2967000
    assert android.battery_mv(values) == 4312
    assert android.plugged(values) is True
    assert android.plugged({**values, "USB powered": "false"}) is False


@pytest.mark.parametrize(("status", "expected"), [("1", None), ("2", True), ("3", False), ("5", False), ("x", None)])
def test_charging(status: str, expected: bool | None) -> None:
    assert android.charging({"status": status}) is expected


def test_an_empty_battery_dump_is_unknown() -> None:
    values = android.battery("")
    for read in (android.battery_percent, android.battery_celsius, android.battery_mv, android.charge_uah):
        assert read(values) is None
    assert android.charging(values) is None
    assert android.plugged(values) is None


def test_the_cores_of_an_s24() -> None:
    kinds = android.core_kinds(S24_CPUINFO)
    assert [kinds[core] for core in range(10)] == ["Cortex-A520"] * 4 + ["Cortex-A720"] * 5 + ["Cortex-X4"]
    assert android.core_kinds("processor : 0\nCPU implementer : 0x51\nCPU part : 0x001\n") == {0: "0x51/0x001"}
    assert android.core_kinds("processor : 0\nmodel name : some x86\n") == {}


def test_a_process_and_its_pages() -> None:
    status = android.status(STATUS)
    assert (status["VmHWM"], status["VmSwap"]) == (292_004 * 1024, 1024 * 1024)
    assert "Threads" not in status
    rollup = android.smaps_rollup(SMAPS_ROLLUP)
    assert (rollup["Pss"], rollup["Private_Dirty"], rollup["Locked"]) == (251_300 * 1024, 201_000 * 1024, 0)


def test_busy_ticks_are_all_but_idle_and_waiting() -> None:
    assert android.busy_ticks(STAT) == {0: 96, 1: 64}  # the guest's 20 are in user time already
    assert Ticks.of(f"1234.56 99.0\n{STAT}") == Ticks(1234.56, {0: 96, 1: 64})
    assert Ticks.of(STAT) is None
    assert Ticks.of("1234.56 99.0\n") is None


def test_small_readings() -> None:
    assert android.properties("[a.b]: [c]\n[d]: []\n[e]: [x]: [y]\n") == {"a.b": "c", "d": "", "e": "x]: [y"}
    assert android.meminfo("MemTotal:  2 kB\nMemAvailable:  1 kB\n") == {"MemTotal": 2048, "MemAvailable": 1024}
    assert android.load("0.52 0.58 0.59 1/900 1\n") == 0.52
    assert android.load("") is None
    assert android.load("inf") is None
    assert android.load("-1") is None
    assert android.cores("0-9\n") == 10
    assert android.cores("0-3,5") == 5
    assert android.cores("9-0") is None
    assert android.cores("") is None
    df = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-50 100 60 40 60% /data/user/0\n"
    assert android.free_bytes(df) == 40 * 1024
    assert android.free_bytes("") is None
    assert android.wakefulness("  mWakefulness=Awake\n  mWakefulnessChanging=false\n") == "Awake"
    assert android.wakefulness("") is None


OUTPUTS = (S22_THERMAL, S25_THERMAL, SAMSUNG_BATTERY, S24_HOT_FREQUENCIES, S24_CPUINFO, STATUS, SMAPS_ROLLUP, STAT)
NUMBERS = st.sampled_from(["NaN", "-3.4028235E38", "3.4028235E38", "inf", "-1", "0", "9" * 40, "٣", "", "1e400"])


@st.composite
def torn(draw: Callable[..., str]) -> str:
    """A real output, cut, with lines lost, doubled or spliced, and a number replaced by a bad one."""
    lines = draw(st.sampled_from(OUTPUTS)).splitlines()
    kept = draw(st.lists(st.sampled_from(lines), max_size=2 * len(lines)))
    text = "\n".join(kept)
    words = [word for word in text.replace("=", " ").replace(",", " ").split() if word[:1].isdigit()]
    if words:
        text = text.replace(draw(st.sampled_from(words)), draw(NUMBERS))
    return text[: draw(st.integers(0, len(text)))] if text else ""


@given(st.one_of(st.text(), torn()))
def test_no_text_breaks_a_reading_or_makes_nonsense_of_it(text: str) -> None:
    values = android.battery(text)
    percent, celsius = android.battery_percent(values), android.battery_celsius(values)
    assert percent is None or 0 <= percent <= 100
    assert celsius is None or -40 < celsius < 200
    assert (android.battery_mv(values) or 4000) > 1000
    assert (android.charge_uah(values) or 1) > 0
    assert android.charging(values) in (None, True, False)
    for reading in android.temperatures("Current temperatures from HAL:\n" + text).values():
        assert math.isfinite(reading)
        assert -40 < reading < 200
    for cluster in android.clusters(text).values():
        assert cluster.highest_khz > 0
        assert cluster.allowed_khz >= 0
    assert all(size >= 0 for size in android.meminfo(text).values())
    assert all(ticks >= 0 for ticks in android.busy_ticks(text).values())
    load = android.load(text)
    assert load is None or (math.isfinite(load) and load >= 0)
    assert (android.cores(text) or 1) > 0
    assert (android.free_bytes(text) or 0) >= 0
    assert android.thermal_status(text) in (None, *range(7))
    android.core_kinds(text)
    android.properties(text)
    android.wakefulness(text)
    Ticks.of(text)
