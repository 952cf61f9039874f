"""The gate before a block: wait until the phone is as the Protocol asks, for so long and no longer."""

from collections.abc import Callable, Iterator

from device_agent.clock import Clock
from device_agent.condition import Reading
from device_agent.contracts import Condition, Gate, Gates

_Finding = tuple[str, bool | None]  # what was asked and seen, and whether it is met; None when it could not be read


def findings(gates: Gates, condition: Condition, cores: int | None) -> Iterator[_Finding]:
    """Every gate that is set, with what the phone is like."""
    if (limit := gates.battery_celsius) is not None:
        yield _at_most("battery", condition.battery_celsius, limit, "C")
    if (limit := gates.skin_celsius) is not None:
        yield _at_most("SKIN", condition.temperatures_celsius.get("SKIN"), limit, "C")
    if gates.uncapped:
        caps = condition.frequency_cap
        capped = ", ".join(f"{policy} at {cap:.0%}" for policy, cap in sorted(caps.items()) if cap < 1)
        yield (f"capped clocks: {capped}" if capped else "caps of the clocks", not capped if caps else None)
    if (limit := gates.load_per_core) is not None:
        load = condition.load_1min
        yield _at_most("load per core", load / cores if load is not None and cores else None, limit)
    if (floor := gates.battery_percent) is not None:
        yield _at_least("battery", condition.battery_percent, floor, " %")
    if (floor := gates.memory_available_bytes) is not None:
        yield _at_least("available memory", condition.memory_available_bytes, floor, " bytes")


def _at_most(what: str, seen: float | None, limit: float, unit: str = "") -> _Finding:
    if seen is None:
        return what, None
    return f"{what} at {seen:.3g} {unit}".rstrip() + f", at most {limit:g} {unit}".rstrip(), seen <= limit


def _at_least(what: str, seen: int | None, floor: int, unit: str) -> _Finding:
    return (what, None) if seen is None else (f"{what} at {seen}{unit}, at least {floor}{unit}", seen >= floor)


def pass_gate(
    gates: Gates,
    first: Reading,
    read: Callable[[], Reading],
    pause: Callable[[float], None],
    clock: Clock,
    cores: int | None,
) -> tuple[Gate, Reading]:
    """Poll until every gate that can be read is met or the wait is over; the record, and the last reading.

    `first` is a reading of just now, `pause` waits some seconds.
    """
    started, reading = clock.monotonic(), first
    while True:
        found = list(findings(gates, reading.condition, cores))
        unmet = tuple(what for what, met in found if met is False)
        waited = clock.monotonic() - started
        if not unmet or waited >= gates.wait_seconds:
            unknown = tuple(what for what, met in found if met is None)
            return Gate(waited_seconds=waited, unmet=unmet, unknown=unknown), reading
        pause(min(gates.poll_seconds, gates.wait_seconds - waited))
        reading = read()
