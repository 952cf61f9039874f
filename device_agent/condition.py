"""A phone's facts and its condition, each read by one command so that reading costs one round trip."""

from datetime import UTC, datetime

from device_agent import android
from device_agent.adb import Link
from device_agent.contracts import Condition, PhoneFacts

_SECONDS = 20.0
_MARK = "@@fulcrum@@"
_FREQUENCIES = (
    "for p in /sys/devices/system/cpu/cpufreq/policy*; do "
    'echo "${p##*/}" $(cat "$p/scaling_max_freq") $(cat "$p/cpuinfo_max_freq"); done'
)
_CLUSTERS = 'for p in /sys/devices/system/cpu/cpufreq/policy*; do echo "${p##*/}" $(cat "$p/related_cpus"); done'
_CONDITION = {
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "frequencies": _FREQUENCIES,
    "load": "cat /proc/loadavg",
    "memory": "cat /proc/meminfo",
}
_FACTS = {
    "properties": "getprop",
    "frequencies": _FREQUENCIES,
    "memory": "cat /proc/meminfo",
    "cores": "cat /sys/devices/system/cpu/possible",
    "clusters": _CLUSTERS,
    "space": "df -k /data/local/tmp",
}


def _read(link: Link, commands: dict[str, str]) -> dict[str, str]:
    """Each command's output by name; a command that fails gives what it printed, often nothing."""
    script = "\n".join(f"echo; echo {_MARK}{name}; {command} 2>/dev/null" for name, command in commands.items())
    sections = link.script(f"{script}\ntrue", timeout=_SECONDS).split(_MARK)[1:]
    return {name: body for name, _, body in (section.partition("\n") for section in sections)}


def read_condition(link: Link) -> Condition:
    """The phone's state now."""
    text = _read(link, _CONDITION)
    battery = android.battery(text["battery"])
    return Condition(
        taken_at=datetime.now(UTC),
        battery_percent=android.battery_percent(battery),
        battery_celsius=android.battery_celsius(battery),
        charging=android.charging(battery),
        thermal_status=android.thermal_status(text["thermal"]),
        temperatures_celsius=android.temperatures(text["thermal"]),
        frequency_cap={
            policy: allowed / highest for policy, (allowed, highest) in android.frequencies(text["frequencies"]).items()
        },
        load_1min=android.load(text["load"]),
        memory_available_bytes=android.meminfo(text["memory"]).get("MemAvailable"),
    )


def read_facts(link: Link) -> PhoneFacts:
    """What the phone is."""
    text = _read(link, _FACTS)
    known = android.properties(text["properties"])
    return PhoneFacts(
        model=known.get("ro.product.model") or "unknown",
        manufacturer=known.get("ro.product.manufacturer"),
        soc=known.get("ro.soc.model") or known.get("ro.board.platform"),
        android=known.get("ro.build.version.release"),
        sdk=android.integer(known.get("ro.build.version.sdk")),
        fingerprint=known.get("ro.build.fingerprint"),
        abi=known.get("ro.product.cpu.abi"),
        cores=android.cores(text["cores"]),
        cluster_max_khz={policy: highest for policy, (_, highest) in android.frequencies(text["frequencies"]).items()},
        cluster_cores=android.cluster_cores(text["clusters"]),
        memory_bytes=android.meminfo(text["memory"]).get("MemTotal"),
        free_bytes=android.free_bytes(text["space"]),
        serialno=known.get("ro.serialno") or None,
        virtual=known.get("ro.fulcrum.virtual") == "1",
    )
