"""Readings of what Android and Samsung print; what is not there, or is no reading, is None or absent."""

import math
import re
from collections.abc import Mapping

_PROPERTY = re.compile(r"^\[(?P<name>[^\]]+)\]: \[(?P<value>.*)\]$", re.MULTILINE)
_BATTERY = re.compile(r"^  (?P<key>[A-Za-z][^:\n]*): (?P<value>.*)$", re.MULTILINE)
_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(?P<value>[^,}]+), mType=(?P<type>-?\d+), mName=(?P<name>[^,}]+), mStatus=-?\d+\}"
)
_STATUS = re.compile(r"^Thermal Status: (?P<status>\d+)", re.MULTILINE)
_MEMINFO = re.compile(r"^(?P<key>\w+):\s+(?P<kb>\d+) kB", re.MULTILINE)
_COLDEST, _HOTTEST = -40.0, 200.0


def properties(text: str) -> dict[str, str]:
    """`getprop` without arguments."""
    return {match["name"]: match["value"] for match in _PROPERTY.finditer(text)}


def battery(text: str) -> dict[str, str]:
    """`dumpsys battery`: the first value of each key.

    Samsung prints a second block of keys and a history of broadcasts after the standard block; the standard lines come
    first and are the ones with exactly two spaces before them.
    """
    found: dict[str, str] = {}
    for match in _BATTERY.finditer(text):
        found.setdefault(match["key"], match["value"].strip())
    return found


def battery_percent(values: Mapping[str, str]) -> int | None:
    """Charge in percent."""
    level, scale = integer(values.get("level")), integer(values.get("scale"))
    return None if level is None or not scale else round(100 * level / scale)


def battery_celsius(values: Mapping[str, str]) -> float | None:
    """Android gives tenths of a degree."""
    tenths = integer(values.get("temperature"))
    return None if tenths is None else tenths / 10


def charging(values: Mapping[str, str]) -> bool | None:
    """BatteryManager's BATTERY_STATUS: 2 charging, 3 discharging, 4 not charging, 5 full; 1 is unknown."""
    status = integer(values.get("status"))
    return None if status not in (2, 3, 4, 5) else status == 2


def battery_health(values: Mapping[str, str]) -> int | None:
    """BatteryManager's BATTERY_HEALTH: 2 good, 3 overheat, 4 dead, 5 over voltage, 6 failure, 7 cold; 1 is unknown."""
    health = integer(values.get("health"))
    return None if health == 1 else health


def thermal_status(text: str) -> int | None:
    """`dumpsys thermalservice`: 0 none to 6 shutdown."""
    match = _STATUS.search(text)
    return int(match["status"]) if match else None


def temperatures(text: str) -> dict[str, float]:
    """Sensor to degrees, from the HAL's current readings only: the cached ones may be hours old.

    A sensor that is absent reads 0.0, NaN or the lowest float; those are dropped, and so is all of it when the HAL is
    not ready.
    """
    if "HAL Ready: false" in text:
        return {}
    _, _, current = text.partition("Current temperatures from HAL:")
    current = current.split("\nCurrent cooling devices", 1)[0]
    found: dict[str, float] = {}
    for match in _TEMPERATURE.finditer(current):
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if math.isfinite(value) and _COLDEST < value < _HOTTEST and value != 0.0:
            found[match["name"]] = value
    return found


def frequencies(text: str) -> dict[str, tuple[int, int]]:
    """Lines of "policyN scaling_max cpuinfo_max": policy to the two in kHz; incomplete lines are unknown, not fine."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1].isdigit() and words[2].isdigit() and int(words[2]) > 0:
            found[words[0]] = (int(words[1]), int(words[2]))
    return found


def cluster_cores(text: str) -> dict[str, tuple[int, ...]]:
    """Lines of "policyN core core ...", from related_cpus: policy to its cores; a policy without any is unknown."""
    lines = [line.split() for line in text.splitlines()]
    return {
        words[0]: tuple(map(int, words[1:]))
        for words in lines
        if len(words) > 1 and all(word.isdecimal() for word in words[1:])
    }


def meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    return {match["key"]: int(match["kb"]) * 1024 for match in _MEMINFO.finditer(text)}


def load(text: str) -> float | None:
    """/proc/loadavg: the mean over a minute."""
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return None


def cores(text: str) -> int | None:
    """/sys/devices/system/cpu/possible, such as 0-9 or 0-3,5."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            return None
        count += int(last or first) - int(first) + 1
    return count


def free_bytes(text: str) -> int | None:
    """`df -k PATH`: the column Available of the last line."""
    words = text.strip().splitlines()[-1].split() if text.strip() else []
    return int(words[3]) * 1024 if len(words) >= 6 and words[3].isdigit() else None


def integer(text: str | None) -> int | None:
    """A whole number, or None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None
