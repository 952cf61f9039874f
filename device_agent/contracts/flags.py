"""Flags: why the figures of a Measurement deserve less trust than their intervals say."""

from collections.abc import Iterator

from device_agent.contracts.measurement import Block, Measurement


def flags_of(measurement: Measurement) -> tuple[str, ...]:
    """Short sentences without an order, each said once. An empty tuple is what a measurement should have."""
    return tuple(dict.fromkeys(_flags(measurement)))


def _flags(measurement: Measurement) -> Iterator[str]:
    for number, block in enumerate(measurement.blocks, start=1):
        yield from block_flags(number, block)
        if len(block.prefill_ns) < measurement.protocol.repetitions:
            yield f"block {number}: the time cap ended it after {len(block.prefill_ns)} repetitions"
    if len(measurement.blocks) < 3:
        yield f"{len(measurement.blocks)} block(s): too few for an interval"
    if measurement.memory.steady is not None and (measurement.memory.steady.swap_bytes or 0) > 0:
        yield "the memory pass was swapped out in part"
    placement, masks = measurement.placement, {b.cpus_allowed for b in measurement.blocks}
    if placement is not None and masks != {placement.mask}:
        yield f"pinned to {placement.mask}, but ran on {', '.join(sorted(mask or 'unknown' for mask in masks))}"
    for change in measurement.settings:
        if not change.applied:
            yield f"{change.setting} was not taken: {change.note or 'no reason given'}"
        elif not change.restored:
            yield f"{change.setting} was not put back: {change.note or 'no reason given'}"
    if measurement.cold_load is not None and not measurement.cold_load.cold:
        yield f"the cold load was of a warm file: {measurement.cold_load.resident:.0%} of it stayed in memory"


def block_flags(number: int, block: Block) -> Iterator[str]:
    """Of one block: its breaches, what its gate let pass, and clocks that were capped though nobody asked."""
    for breach in block.breaches:
        yield f"block {number}: {breach.reason} {breach.seen:.3g}, allowed {breach.allowed:.3g}"
    capped = {policy: cap for c in (block.before, block.after) if c for policy, cap in c.frequency_cap.items()}
    if lowest := min((cap for cap in capped.values() if cap < 1), default=None):
        yield f"block {number}: clocks were capped at {lowest:.0%}"
    if block.gate is not None:
        for unmet in block.gate.unmet:
            yield f"block {number}: the gate timed out after {block.gate.waited_seconds:.0f} s: {unmet}"
        for unknown in block.gate.unknown:
            yield f"not gated, could not be read: {unknown}"
