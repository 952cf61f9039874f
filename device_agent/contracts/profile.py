"""A Profile: what the measurements say of a Program, each figure with its interval."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

from pydantic import Field

from device_agent.contracts.base import Wire
from device_agent.contracts.measurement import Block, Measurement, Samples, TokenTimes
from device_agent.contracts.protocol import Workload
from device_agent.contracts.statistics import bootstrap_interval, mad, quantile, t_cdf, t_interval, t_quantile


class Figure(Wire):
    """A median of block medians with its 95 % interval.

    The interval is Student's t over the block medians, widened where it would not hold the figure: with three to five
    blocks the percentile bootstrap holds the truth far less often than it says (docs/measuring.md has the table), and
    is kept beside it. With one block the interval is the figure itself: nothing is known of its spread.
    """

    value: float
    low: float
    high: float
    blocks: int = Field(default=0, ge=0, description="How many it rests on; 0 where that was not recorded")
    mad: float = 0.0
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None

    @classmethod
    def over_blocks(cls, per_block: Sequence[float]) -> "Figure":
        """The figure of one value per block."""
        value = median(per_block)
        low, high = t_interval(per_block)
        bootstrap = bootstrap_interval(per_block)
        return cls(
            value=value,
            low=max(min(low, value), min(0.0, value)),
            high=max(high, value),
            blocks=len(per_block),
            mad=mad(per_block),
            bootstrap_low=bootstrap[0],
            bootstrap_high=bootstrap[1],
        )

    def at_most(self, bound: float) -> float:
        """P(the true value <= bound): Student's t around the figure, as wide as the interval says.

        A normal where the number of blocks was not recorded; 1 or 0 where there is no spread.
        """
        freedom = self.blocks - 1 if self.blocks > 1 else 0
        half = max(self.high - self.value, self.value - self.low) if freedom else (self.high - self.low) / 2
        if half <= 0:
            return 1.0 if self.value <= bound else 0.0
        if not freedom:
            return (1 + math.erf((bound - self.value) / half * _NORMAL_95 / math.sqrt(2))) / 2
        return t_cdf((bound - self.value) / half * t_quantile(0.975, freedom), freedom)


_NORMAL_95 = 1.959964  # half the width of a normal's 95 % interval, in standard deviations


class WorkloadProfile(Wire):
    """What one workload beside the main one came to; a decode workload has no TTFT."""

    workload: Workload
    ttft_ms: Figure | None = None
    prefill_tokens_per_second: Figure | None = None
    decode_ms: Figure | None = None
    decode_p95_ms: Figure | None = None
    restored_ttft_ms: Figure | None = Field(default=None, description="prefix: with it restored; ttft_ms is without")
    restore_ms: Figure | None = None
    restored_share: Figure | None = Field(default=None, description="prefix: restored TTFT over TTFT, per block")
    snapshot_bytes: int | None = None
    snapshot_bytes_per_token: float | None = None


class SustainedMinute(Wire):
    """One minute of sustained decoding, and the phone at its end."""

    decode_ms: float
    tokens: int
    battery_celsius: float | None = None
    skin_celsius: float | None = None
    lowest_cap: float | None = Field(default=None, description="The lowest of the policies' caps; 1 is none")


class Profile(Wire):
    """Latencies in milliseconds, speed in tokens per second, memory in bytes, of the Protocol's main workload."""

    ttft_ms: Figure
    prefill_tokens_per_second: Figure
    decode_ms: Figure
    decode_p95_ms: Figure
    load_ms: Figure
    peak_memory_bytes: int
    decode_p90_ms: Figure | None = None
    decode_p99_ms: Figure | None = None
    cold_load_ms: float | None = Field(default=None, description="Only where the files were really read from storage")
    further: tuple[WorkloadProfile, ...] = ()
    sustained: tuple[SustainedMinute, ...] = ()
    joules_per_token: float | None = Field(default=None, description="By the battery's gauge, of the whole phone")
    flags: tuple[str, ...] = Field(default=(), description="Why the figures deserve less trust; none is best")

    @classmethod
    def of(cls, measurement: Measurement) -> "Profile":
        """Reduce raw samples. Peak memory is that of the memory pass above the empty runner's: the higher of VmHWM
        and of the highest RSS + swap that was seen.
        """
        from device_agent.contracts.flags import flags_of

        blocks = measurement.blocks
        ttft = block_medians(measurement, "ttft")
        decode = [_milliseconds(b.decode_ns) for b in blocks]
        memory, tokens = measurement.memory, measurement.protocol.prefill_tokens
        cold = measurement.cold_load
        return cls(
            ttft_ms=Figure.over_blocks(ttft),
            prefill_tokens_per_second=Figure.over_blocks([tokens / (ms / 1e3) for ms in ttft]),
            decode_ms=Figure.over_blocks([median(samples) for samples in decode]),
            decode_p90_ms=Figure.over_blocks([quantile(samples, 0.90) for samples in decode]),
            decode_p95_ms=Figure.over_blocks([quantile(samples, 0.95) for samples in decode]),
            decode_p99_ms=Figure.over_blocks([quantile(samples, 0.99) for samples in decode]),
            load_ms=Figure.over_blocks([b.load_ns / 1e6 for b in blocks]),
            cold_load_ms=cold.load_ns / 1e6 if cold and cold.cold else None,
            peak_memory_bytes=max(memory.peak_bytes, memory.sampled_peak_bytes or 0) - memory.baseline_bytes,
            further=tuple(_further(blocks, i) for i in range(len(blocks[0].further))),
            sustained=tuple(_minute(block) for block in measurement.sustained),
            joules_per_token=_joules_per_token(measurement.sustained),
            flags=flags_of(measurement),
        )


def block_medians(measurement: Measurement, what: Literal["decode", "ttft"]) -> list[float]:
    """One value per block, in milliseconds: the median token, or the median time to the first token."""
    if what == "ttft":
        return [median(b.prefill_ns) / 1e6 for b in measurement.blocks]
    return [median(_milliseconds(b.decode_ns)) for b in measurement.blocks]


def _milliseconds(decode_ns: Sequence[TokenTimes]) -> list[float]:
    return [ns / 1e6 for repetition in decode_ns for ns in repetition]


def _further(blocks: Sequence[Block], index: int) -> WorkloadProfile:
    samples = [block.further[index] for block in blocks]
    workload = samples[0].workload
    if workload.kind == "prefill":
        ttft = [median(s.prefill_ns) / 1e6 for s in samples]
        speed = [workload.prefill_tokens / (ms / 1e3) for ms in ttft]
        return WorkloadProfile(
            workload=workload, ttft_ms=Figure.over_blocks(ttft), prefill_tokens_per_second=Figure.over_blocks(speed)
        )
    if workload.kind == "prefix":
        return _prefix(workload, samples)
    decode = [_milliseconds(s.decode_ns) for s in samples]
    return WorkloadProfile(
        workload=workload,
        decode_ms=Figure.over_blocks([median(ms) for ms in decode]),
        decode_p95_ms=Figure.over_blocks([quantile(ms, 0.95) for ms in decode]),
    )


def _prefix(workload: Workload, samples: Sequence[Samples]) -> WorkloadProfile:
    cold = [median(s.prefill_ns) / 1e6 for s in samples]
    warm = [median(s.restored_ns) / 1e6 for s in samples]
    size = samples[0].snapshot_bytes
    return WorkloadProfile(
        workload=workload,
        ttft_ms=Figure.over_blocks(cold),
        prefill_tokens_per_second=Figure.over_blocks([workload.prefill_tokens / (ms / 1e3) for ms in cold]),
        restored_ttft_ms=Figure.over_blocks(warm),
        restore_ms=Figure.over_blocks([median(s.restore_ns) / 1e6 for s in samples]),
        restored_share=Figure.over_blocks([b / a for a, b in zip(cold, warm, strict=True)]),
        snapshot_bytes=size,
        snapshot_bytes_per_token=size / workload.prefix_tokens if size is not None else None,
    )


def _minute(block: Block) -> SustainedMinute:
    after = block.after
    samples = _milliseconds(block.decode_ns)
    return SustainedMinute(
        decode_ms=median(samples),
        tokens=len(samples),
        battery_celsius=after.battery_celsius if after else None,
        skin_celsius=after.temperatures_celsius.get("SKIN") if after else None,
        lowest_cap=min(after.frequency_cap.values(), default=None) if after else None,
    )


def _joules_per_token(blocks: Sequence[Block]) -> float | None:
    """The charge that the gauge lost x the mean voltage / the tokens decoded; None where it cannot be known.

    It counts prefills and the phone's idle draw too, so it is an upper bound of what a token costs. A phone on a cable
    lives off the cable. A gauge steps in milliampere-hours: what is less than 20 of its steps is no reading.
    """
    readings = [c for block in blocks for c in (block.before, block.after) if c is not None]
    if len(readings) < 2 or any(c.plugged is not False for c in readings):
        return None
    charges = [c.charge_uah for c in readings if c.charge_uah is not None]
    voltages = [c.battery_mv for c in readings if c.battery_mv is not None]
    tokens = sum(len(repetition) for block in blocks for repetition in block.decode_ns)
    if len(charges) != len(readings) or not voltages or charges[0] - charges[-1] < _GAUGE_UAH:
        return None
    return (charges[0] - charges[-1]) * 3.6e-3 * (sum(voltages) / len(voltages) / 1e3) / tokens


_GAUGE_UAH = 20_000  # 20 steps of 1 mAh, the step in the outputs that we have of real phones
