"""The health check: what a probe does not show. Can the phone take a file, has it room, is its battery sound?"""

import hashlib
import secrets
from datetime import UTC, datetime

from device_agent.adb import Link
from device_agent.contracts import FulcrumError, HealthCheck, HealthItem, Vitals
from device_agent.vitals import BatteryPolicy

_FILE = "/data/local/tmp/fulcrum/health-check"
_BYTES = 256 * 1024
_SECONDS = 60.0
_UNSOUND = {3: "overheated", 4: "dead", 5: "over its voltage", 6: "failing"}  # BatteryManager.BATTERY_HEALTH_*
_MIB = 1 << 20


def check(link: Link, vitals: Vitals, policy: BatteryPolicy, min_free_bytes: int) -> HealthCheck:
    """Check a phone that was just probed. A broken connection is no finding: it is raised.

    Raises:
        PhoneUnreachable, DeadlineExceeded: the phone went away meanwhile.
    """
    return HealthCheck(
        started_at=datetime.now(UTC),
        items=(_storage(link), _space(vitals, min_free_bytes), _battery(vitals, policy)),
    )


def _storage(link: Link) -> HealthItem:
    """A random file goes there, and the phone's own sha256 of it comes back."""
    content = secrets.token_bytes(_BYTES)
    try:
        link.push(content, _FILE, hashlib.sha256(content).hexdigest(), timeout=_SECONDS)
        link.script('rm -f "$1"', _FILE, timeout=_SECONDS)
    except FulcrumError as error:
        if error.slug in ("phone-unreachable", "phone-deadline"):
            raise
        return HealthItem(name="storage", passed=False, detail=f"{error.message} {error.advice}".strip())
    return HealthItem(name="storage", passed=True, detail=f"{_BYTES // 1024} KiB written and read back")


def _space(vitals: Vitals, least: int) -> HealthItem:
    free = vitals.free_bytes
    if free is None:
        return HealthItem(name="space", passed=True, detail="the phone does not say how much is free")
    said = f"{free // _MIB} MiB free where Programs are pushed"
    if free < least:
        return HealthItem(name="space", passed=False, detail=f"{said}, {least // _MIB} MiB needed: delete something")
    return HealthItem(name="space", passed=True, detail=said)


def _battery(vitals: Vitals, policy: BatteryPolicy) -> HealthItem:
    parts = []
    if vitals.battery_percent is not None:
        parts.append(f"{vitals.battery_percent} %")
    if vitals.battery_celsius is not None:
        parts.append(f"{vitals.battery_celsius:.1f} °C")
    unsound = _UNSOUND.get(vitals.battery_health or 0)
    if unsound:
        parts.append(f"Android calls it {unsound}: look at it, and replace the phone if it swells")
    elif remark := policy.remark(vitals):
        parts.append(remark)
    return HealthItem(name="battery", passed=not unsound, detail="; ".join(parts) or "the phone names no battery")
