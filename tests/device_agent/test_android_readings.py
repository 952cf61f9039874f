"""Parsers on the outputs of real phones, as issue threads quote them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent import android

# Galaxy S22, pytorch/executorch PR 11301.
S22_THERMAL = """IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=66.5, mType=0, mName=AP, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=39.6, mType=0, mName=AP, mStatus=0}
\tTemperature{mValue=36.3, mType=2, mName=BAT, mStatus=0}
\tTemperature{mValue=40.8, mType=5, mName=PATHM, mStatus=0}
\tTemperature{mValue=35.8, mType=3, mName=SKIN, mStatus=0}
\tTemperature{mValue=0.0, mType=-1, mName=SUBBAT, mStatus=0}
\tTemperature{mValue=0.0, mType=-1, mName=SUBBATRAW, mStatus=0}
\tTemperature{mValue=36.9, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=SKIN, mHotThrottlingThresholds=[NaN, 39.0]}
"""
# Samsung, mcloud-device issue 150, with the history lines of Root-My-Galaxy issue 419.
SAMSUNG_BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 0
  Charge counter: 4015000
  status: 5
  health: 2
  present: true
  level: 100
  scale: 100
  voltage: 4312
  temperature: 309
  technology: Li-ion
  charge counter: 2967000
  current now: 0
  mSavedBatteryAsoc: 96
    Sending ACTION_BATTERY_CHANGED: level:36, status:2, temperature:386
  temperature: 999
"""
# Galaxy S24+ in use: the big cores at 57 % while the thermal status is 0.
S24_THROTTLED = """policy0 1632000 1959000
policy4 1824000 2592000
policy7 1824000 2900000
policy9 1824000 3207000
"""


def test_only_the_current_and_real_temperatures_count() -> None:
    assert android.temperatures(S22_THERMAL) == {"AP": 39.6, "BAT": 36.3, "PATHM": 40.8, "SKIN": 35.8, "USB": 36.9}
    assert android.thermal_status(S22_THERMAL) == 0


def test_the_lowest_float_and_nan_are_no_temperatures() -> None:
    s25 = S22_THERMAL.replace("mValue=39.6", "mValue=-3.4028235E38").replace("mValue=35.8", "mValue=NaN")
    assert set(android.temperatures(s25)) == {"BAT", "PATHM", "USB"}


def test_a_hal_that_is_not_ready_gives_nothing() -> None:
    assert android.temperatures(S22_THERMAL.replace("HAL Ready: true", "HAL Ready: false")) == {}
    assert android.temperatures("Can't find service: thermalservice") == {}
    assert android.thermal_status("Can't find service: thermalservice") is None


def test_the_first_of_each_battery_key_counts() -> None:
    values = android.battery(SAMSUNG_BATTERY)
    assert android.battery_percent(values) == 100
    assert android.battery_celsius(values) == 30.9
    assert values["charge counter"] == "2967000"
    assert values["Charge counter"] == "4015000"


@pytest.mark.parametrize(("status", "expected"), [("1", None), ("2", True), ("3", False), ("5", False), ("x", None)])
def test_charging(status: str, expected: bool | None) -> None:
    assert android.charging({"status": status}) is expected


def test_an_empty_battery_dump_is_unknown() -> None:
    values = android.battery("")
    assert android.battery_percent(values) is None
    assert android.battery_celsius(values) is None
    assert android.charging(values) is None


def test_a_cap_is_seen_and_an_empty_reading_is_unknown() -> None:
    read = android.frequencies(S24_THROTTLED + "policy10\npolicy11 100\npolicy12 x y\n")
    assert set(read) == {"policy0", "policy4", "policy7", "policy9"}
    allowed, highest = read["policy9"]
    assert round(allowed / highest, 2) == 0.57


def test_small_readings() -> None:
    assert android.properties("[a.b]: [c]\n[d]: []\n[e]: [x]: [y]\n") == {"a.b": "c", "d": "", "e": "x]: [y"}
    assert android.meminfo("MemTotal:  2 kB\nMemAvailable:  1 kB\n") == {"MemTotal": 2048, "MemAvailable": 1024}
    assert android.load("0.52 0.58 0.59 1/900 1\n") == 0.52
    assert android.load("") is None
    assert android.cores("0-9\n") == 10
    assert android.cores("0-3,5") == 5
    assert android.cores("") is None
    df = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-50 100 60 40 60% /data/user/0\n"
    assert android.free_bytes(df) == 40 * 1024
    assert android.free_bytes("") is None


@given(st.text())
def test_no_text_breaks_a_reading(text: str) -> None:
    values = android.battery(text)
    android.battery_percent(values)
    android.battery_celsius(values)
    android.temperatures("Current temperatures from HAL:" + text)
    android.frequencies(text)
    android.meminfo(text)
    android.load(text)
    android.cores(text)
    android.free_bytes(text)
    android.properties(text)
