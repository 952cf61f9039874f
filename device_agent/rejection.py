"""Which blocks do not count, and why. Blocks are judged as a whole: no sample is ever dropped."""

from collections.abc import Iterator, Sequence
from statistics import median

from device_agent.condition import Ticks
from device_agent.contracts import Block, Breach, Condition, Limits
from device_agent.contracts.measurement import TokenTimes
from device_agent.contracts.statistics import drift, spread

_LEAST_SECONDS = 1.0  # within less, ticks of 10 ms and the start of a process are most of what is counted


def breaches(limits: Limits, block: Block) -> tuple[Breach, ...]:
    """What a block breaks; its conditions and its foreign CPU share are on it."""
    return tuple(_breaches(limits, block))


def _breaches(limits: Limits, block: Block) -> Iterator[Breach]:
    before, after = block.before, block.after
    if before is not None and after is not None:
        yield from _changes(limits, before, after)
    workloads = _repetition_medians(block)
    if limits.drift is not None:
        worst = max((abs(drift(medians)) for medians in workloads), default=0.0)
        if worst > limits.drift:
            yield Breach(reason="drift", seen=worst, allowed=limits.drift)
    if limits.spread is not None:
        worst = max((spread(medians) for medians in workloads), default=0.0)
        if worst > limits.spread:
            yield Breach(reason="spread", seen=worst, allowed=limits.spread)
    if limits.foreign_cpu is not None and (block.foreign_cpu or 0.0) > limits.foreign_cpu:
        yield Breach(reason="foreign-cpu", seen=block.foreign_cpu or 0.0, allowed=limits.foreign_cpu)


def _changes(limits: Limits, before: Condition, after: Condition) -> Iterator[Breach]:
    if limits.frequency_cap:
        fallen = [cap for policy, cap in after.frequency_cap.items() if cap < before.frequency_cap.get(policy, 1.0)]
        if fallen:
            yield Breach(reason="frequency-cap", seen=min(fallen), allowed=1.0)
    skin = before.temperatures_celsius.get("SKIN"), after.temperatures_celsius.get("SKIN")
    if limits.skin_rise_celsius is not None and skin[0] is not None and skin[1] is not None:
        rise = skin[1] - skin[0]
        if rise > limits.skin_rise_celsius:
            yield Breach(reason="heated", seen=rise, allowed=limits.skin_rise_celsius)


def _repetition_medians(block: Block) -> list[Sequence[float]]:
    """Per workload, one value a repetition: a token's cost grows within a repetition, as the context does."""
    found: list[Sequence[float]] = [_medians(block.decode_ns)]
    for samples in block.further:
        found.append(samples.prefill_ns if samples.workload.kind == "prefill" else _medians(samples.decode_ns))
    return found


def _medians(decode_ns: Sequence[TokenTimes]) -> list[float]:
    return [median(repetition) for repetition in decode_ns]


def foreign_cpu(start: Ticks | None, end: Ticks | None, own_ns: int | None, mask: str | None) -> float | None:
    """The share of the used cores' time that went to others than the runner; None where it cannot be known.

    (busy ticks of the cores / 100 - the process's own seconds) / (seconds x cores), and at least 0.
    """
    if start is None or end is None or own_ns is None or end.uptime - start.uptime < _LEAST_SECONDS:
        return None
    used = cores_of(mask) if mask else set(start.busy)
    cores = used & start.busy.keys() & end.busy.keys()
    if not cores:
        return None
    busy = sum(end.busy[core] - start.busy[core] for core in cores) / 100
    return max(0.0, (busy - own_ns / 1e9) / ((end.uptime - start.uptime) * len(cores)))


def cores_of(mask: str) -> set[int]:
    """The cores of a mask in hex, such as 3ff or ff,ffffffff."""
    bits = int(mask.replace(",", ""), 16)
    return {core for core in range(bits.bit_length()) if bits >> core & 1}
