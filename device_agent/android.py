"""Readings of what Android and Samsung print; what is not there, or is no reading, is None or absent."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_PROPERTY = re.compile(r"^\[(?P<name>[^\]]+)\]: \[(?P<value>.*)\]$", re.MULTILINE)
_BATTERY = re.compile(r"^  (?P<key>[A-Za-z][^:\n]*): (?P<value>.*)$", re.MULTILINE)
_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(?P<value>[^,}]+), mType=(?P<type>-?\d+), mName=(?P<name>[^,}]+), mStatus=-?\d+\}"
)
_STATUS = re.compile(r"^Thermal Status: (?P<status>[0-6])$", re.MULTILINE | re.ASCII)
_MEMINFO = re.compile(r"^(?P<key>\w+):\s+(?P<kb>\d{1,15}) kB\s*?$", re.MULTILINE | re.ASCII)
_TICKS = re.compile(r"^cpu(?P<core>\d{1,3}) (?P<ticks>\d{1,18}(?: \d{1,18}){3,})\s*$", re.MULTILINE | re.ASCII)
_POLICY = re.compile(
    r"^(?P<name>policy\d{1,3}) (?P<allowed>\d{1,9}) (?P<highest>\d{1,9})(?: /(?: (?P<cores>[\d ]{1,2000}))?)?$",
    re.ASCII,
)
_PARTS = {  # implementer and part, Arm's MIDR_EL1, as in Linux' arch/arm64/include/asm/cputype.h
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd48"): "Cortex-X2",
    ("0x41", "0xd4d"): "Cortex-A715",
    ("0x41", "0xd4e"): "Cortex-X3",
    ("0x41", "0xd80"): "Cortex-A520",
    ("0x41", "0xd81"): "Cortex-A720",
    ("0x41", "0xd82"): "Cortex-X4",
}
_WAKEFULNESS = re.compile(r"^\s*mWakefulness=(?P<state>[A-Za-z]{1,20})$", re.MULTILINE)
_INTEGER = re.compile(r"-?[0-9]{1,18}")
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
    if level is None or scale is None or not 0 <= level <= scale or scale == 0:
        return None
    return round(100 * level / scale)


def battery_celsius(values: Mapping[str, str]) -> float | None:
    """Android gives tenths of a degree."""
    tenths = integer(values.get("temperature"))
    return None if tenths is None or not _COLDEST < tenths / 10 < _HOTTEST else tenths / 10


def battery_mv(values: Mapping[str, str]) -> int | None:
    """Millivolts of the battery; some phones print volts or microvolts, which are no reading here."""
    value = integer(values.get("voltage"))
    return value if value is not None and 1000 < value < 30_000 else None


def charge_uah(values: Mapping[str, str]) -> int | None:
    """The charge left by the gauge, in microampere-hours. Samsung prints another counter in lower case."""
    value = integer(values.get("Charge counter"))
    return value if value is not None and 0 < value < 10**9 else None


def charging(values: Mapping[str, str]) -> bool | None:
    """BatteryManager's BATTERY_STATUS: 2 charging, 3 discharging, 4 not charging, 5 full; 1 is unknown."""
    status = integer(values.get("status"))
    return None if status not in (2, 3, 4, 5) else status == 2


def battery_health(values: Mapping[str, str]) -> int | None:
    """BatteryManager's BATTERY_HEALTH: 2 good, 3 overheat, 4 dead, 5 over voltage, 6 failure, 7 cold; 1 is unknown."""
    health = integer(values.get("health"))
    return None if health == 1 else health


def plugged(values: Mapping[str, str]) -> bool | None:
    """Whether power comes in; None unless cable and coil are both known."""
    powered = [values.get(f"{source} powered") for source in ("AC", "USB", "Wireless")]
    return "true" in powered if all(value in ("true", "false") for value in powered) else None


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


class Cluster(NamedTuple):
    """A cpufreq policy: what it is allowed now and what it can do, in kHz, and its cores."""

    allowed_khz: int
    highest_khz: int
    cores: tuple[int, ...] = ()


def clusters(text: str) -> dict[str, Cluster]:
    """Lines of "policyN scaling_max cpuinfo_max [/ cores]", by policy; incomplete lines are unknown, not fine."""
    found = {}
    for line in text.splitlines():
        match = _POLICY.match(" ".join(line.split()))
        if match and int(match["highest"]) > 0:
            own = tuple(int(core) for core in (match["cores"] or "").split())
            found[match["name"]] = Cluster(int(match["allowed"]), int(match["highest"]), own)
    return found


def frequencies(text: str) -> dict[str, tuple[int, int]]:
    """Policy to (scaling_max_freq, cpuinfo_max_freq) in kHz, from the lines that `clusters` reads."""
    return {name: (cluster.allowed_khz, cluster.highest_khz) for name, cluster in clusters(text).items()}


def core_kinds(text: str) -> dict[int, str]:
    """/proc/cpuinfo of an Arm: core to what it is; an unknown one by its implementer and part."""
    kinds: dict[int, str] = {}
    for paragraph in text.split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        core, part = integer(fields.get("processor")), fields.get("CPU part")
        if core is not None and part:
            implementer = fields.get("CPU implementer", "")
            kinds[core] = _PARTS.get((implementer, part), f"{implementer}/{part}")
    return kinds


def busy_ticks(text: str) -> dict[int, int]:
    """/proc/stat: core to the ticks that it was not idle: all but idle and iowait, guests counted once (proc(5))."""
    found = {}
    for match in _TICKS.finditer(text):
        ticks = [int(word) for word in match["ticks"].split()][:8]
        found[int(match["core"])] = sum(ticks) - sum(ticks[3:5])
    return found


def status(text: str) -> dict[str, int]:
    """/proc/PID/status: its sizes (VmHWM, VmRSS, VmSwap, RssFile, ...) in bytes."""
    return meminfo(text)


def smaps_rollup(text: str) -> dict[str, int]:
    """/proc/PID/smaps_rollup in bytes: Rss, Pss, Private_Dirty, Swap, ..."""
    return meminfo(text)


def meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    return {match["key"]: int(match["kb"]) * 1024 for match in _MEMINFO.finditer(text)}


def load(text: str) -> float | None:
    """/proc/loadavg: the mean over a minute."""
    try:
        value = float(text.split()[0])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def wakefulness(text: str) -> str | None:
    """`dumpsys power`: Awake, Asleep, Dreaming or Dozing."""
    match = _WAKEFULNESS.search(text)
    return match["state"] if match else None


def cores(text: str) -> int | None:
    """/sys/devices/system/cpu/possible, such as 0-9 or 0-3,5."""
    count = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low, high = integer(first), integer(last if dash else first)
        if low is None or high is None or not 0 <= low <= high < 4096:
            return None
        count += high - low + 1
    return count


def free_bytes(text: str) -> int | None:
    """`df -k PATH`: the column Available of the last line."""
    words = text.strip().splitlines()[-1].split() if text.strip() else []
    free = integer(words[3]) if len(words) >= 6 else None
    return free * 1024 if free is not None and free >= 0 else None


def integer(text: str | None) -> int | None:
    """A whole number in plain digits, or None."""
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None
