"""A Profile: what the measurements say of a Program, each figure with its interval."""

import random
from collections.abc import Sequence
from statistics import median

from device_agent.contracts.base import Wire
from device_agent.contracts.measurement import Measurement

_RESAMPLES = 2000


class Figure(Wire):
    """A median of block medians with its 95 % percentile-bootstrap interval over blocks.

    With one block the interval is the figure itself: nothing is known of its spread.
    """

    value: float
    low: float
    high: float

    @classmethod
    def over_blocks(cls, per_block: Sequence[float]) -> "Figure":
        """The figure of one value per block (Efron & Tibshirani 1993, chapter 13); the resampling is seeded."""
        draw = random.Random(0)
        medians = sorted(median(draw.choices(per_block, k=len(per_block))) for _ in range(_RESAMPLES))
        low, high = medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]
        return cls(value=median(per_block), low=low, high=high)


class Profile(Wire):
    """Latencies in milliseconds, speed in tokens per second, memory in bytes."""

    ttft_ms: Figure
    prefill_tokens_per_second: Figure
    decode_ms: Figure
    decode_p95_ms: Figure
    load_ms: Figure
    peak_memory_bytes: int

    @classmethod
    def of(cls, measurement: Measurement) -> "Profile":
        """Reduce raw samples. Peak memory is VmHWM of the memory pass above the empty runner's."""
        blocks = measurement.blocks
        ttft = [median(b.prefill_ns) / 1e6 for b in blocks]
        decode = [sorted(ns / 1e6 for repetition in b.decode_ns for ns in repetition) for b in blocks]
        tokens = measurement.protocol.prefill_tokens
        return cls(
            ttft_ms=Figure.over_blocks(ttft),
            prefill_tokens_per_second=Figure.over_blocks([tokens / (ms / 1e3) for ms in ttft]),
            decode_ms=Figure.over_blocks([median(samples) for samples in decode]),
            decode_p95_ms=Figure.over_blocks([samples[int(0.95 * (len(samples) - 1))] for samples in decode]),
            load_ms=Figure.over_blocks([b.load_ns / 1e6 for b in blocks]),
            peak_memory_bytes=measurement.memory.peak_bytes - measurement.memory.baseline_bytes,
        )
