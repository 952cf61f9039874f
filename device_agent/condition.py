"""A phone's facts and its condition, each read by one command so that reading costs one round trip."""

from dataclasses import dataclass
from datetime import UTC, datetime

from device_agent import android
from device_agent.adb import Link
from device_agent.contracts import Condition, PhoneFacts

_SECONDS = 20.0
_MARK = "@@fulcrum@@"
_FREQUENCIES = (  # by the shell alone: a process for each file would cost more than all the rest
    "for p in /sys/devices/system/cpu/cpufreq/policy*; do allowed=; highest=; cores=; "
    '{ read -r allowed < "$p/scaling_max_freq"; read -r highest < "$p/cpuinfo_max_freq"; '
    'read -r cores < "$p/related_cpus"; } 2>/dev/null; echo "${p##*/} $allowed $highest / $cores"; done'
)
_CONDITION = {
    "ticks": "cat /proc/uptime /proc/stat",  # first, so that reading the rest is nobody's load
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "frequencies": _FREQUENCIES,
    "load": "cat /proc/loadavg",
    "memory": "cat /proc/meminfo",
}
_CORES = {"frequencies": _FREQUENCIES, "cpuinfo": "cat /proc/cpuinfo"}
_FACTS = {
    "properties": "getprop",
    "frequencies": _FREQUENCIES,
    "memory": "cat /proc/meminfo",
    "cores": "cat /sys/devices/system/cpu/possible",
    "space": "df -k /data/local/tmp",
}


def _read(link: Link, commands: dict[str, str]) -> dict[str, str]:
    """Each command's output by name; a command that fails gives what it printed, often nothing."""
    script = "\n".join(f"echo; echo {_MARK}{name}; {command} 2>/dev/null" for name, command in commands.items())
    sections = link.script(f"{script}\ntrue", timeout=_SECONDS).split(_MARK)[1:]
    return {name: body for name, _, body in (section.partition("\n") for section in sections)}


@dataclass(frozen=True)
class Ticks:
    """How long each core was busy since the phone started, in ticks of 10 ms, and how long ago that was."""

    uptime: float
    busy: dict[int, int]

    @classmethod
    def of(cls, text: str) -> "Ticks | None":
        """From /proc/uptime's line and those of /proc/stat; None where either cannot be read."""
        uptime, busy = android.load(text), android.busy_ticks(text)
        return cls(uptime, busy) if uptime is not None and busy else None


@dataclass(frozen=True)
class Reading:
    """A Condition with what only makes sense beside another reading."""

    condition: Condition
    ticks: Ticks | None = None


def read_phone(link: Link, now: datetime | None = None) -> Reading:
    """The phone's state, taken to be that of `now` (this host's clock)."""
    text = _read(link, _CONDITION)
    battery = android.battery(text["battery"])
    condition = Condition(
        taken_at=now or datetime.now(UTC),
        battery_percent=android.battery_percent(battery),
        battery_celsius=android.battery_celsius(battery),
        battery_mv=android.battery_mv(battery),
        charge_uah=android.charge_uah(battery),
        charging=android.charging(battery),
        plugged=android.plugged(battery),
        thermal_status=android.thermal_status(text["thermal"]),
        temperatures_celsius=android.temperatures(text["thermal"]),
        frequency_cap={
            policy: cluster.allowed_khz / cluster.highest_khz
            for policy, cluster in android.clusters(text["frequencies"]).items()
        },
        load_1min=android.load(text["load"]),
        memory_available_bytes=android.meminfo(text["memory"]).get("MemAvailable"),
    )
    return Reading(condition, Ticks.of(text["ticks"].strip()))


def read_condition(link: Link) -> Condition:
    """The phone's state now."""
    return read_phone(link).condition


def read_cores(link: Link) -> tuple[dict[str, android.Cluster], dict[int, str]]:
    """The phone's clusters by policy, and what each core is."""
    text = _read(link, _CORES)
    return android.clusters(text["frequencies"]), android.core_kinds(text["cpuinfo"])


def read_facts(link: Link) -> PhoneFacts:
    """What the phone is."""
    text = _read(link, _FACTS)
    known = android.properties(text["properties"])
    clusters = android.clusters(text["frequencies"])
    return PhoneFacts(
        model=known.get("ro.product.model") or "unknown",
        manufacturer=known.get("ro.product.manufacturer"),
        soc=known.get("ro.soc.model") or known.get("ro.board.platform"),
        android=known.get("ro.build.version.release"),
        sdk=android.integer(known.get("ro.build.version.sdk")),
        fingerprint=known.get("ro.build.fingerprint"),
        abi=known.get("ro.product.cpu.abi"),
        cores=android.cores(text["cores"]),
        cluster_max_khz={name: cluster.highest_khz for name, cluster in clusters.items()},
        cluster_cores={name: cluster.cores for name, cluster in clusters.items() if cluster.cores},
        memory_bytes=android.meminfo(text["memory"]).get("MemTotal"),
        free_bytes=android.free_bytes(text["space"]),
        serialno=known.get("ro.serialno") or None,
        virtual=known.get("ro.fulcrum.virtual") == "1",
    )
