"""A Comparison: which of two Programs is faster on one phone, and whether that may be claimed."""

import math
from collections.abc import Sequence

from pydantic import Field

from device_agent.contracts.base import Wire
from device_agent.contracts.measurement import Measurement
from device_agent.contracts.profile import block_medians
from device_agent.contracts.statistics import hodges_lehmann, t_interval

MATTERS = 0.02  # a smaller difference is not claimed, however sure it is


class Ratio(Wire):
    """How much slower the second is than the first, as a factor, over pairs of neighbouring blocks.

    The value is Hodges and Lehmann's estimate over the pairs' log ratios; the 95 % interval is Student's t over them.
    Neighbours share what the phone is like at the time, and the order turns from pair to pair (ABBA), so that what
    changes steadily cancels.
    """

    value: float = Field(gt=0)
    low: float = Field(ge=0)
    high: float = Field(gt=0)
    pairs: int = Field(ge=1)

    @classmethod
    def over_pairs(cls, first: Sequence[float], second: Sequence[float]) -> "Ratio":
        """The ratio of paired block medians: `first[i]` and `second[i]` were measured one after the other."""
        logs = [math.log(b / a) for a, b in zip(first, second, strict=True)]
        value = hodges_lehmann(logs)
        low, high = t_interval(logs)
        if len(logs) < 2:
            low, high = -math.inf, 700.0  # one pair says nothing of its spread
        return cls(
            value=math.exp(value), low=math.exp(min(low, value)), high=math.exp(max(high, value)), pairs=len(logs)
        )

    @property
    def claimed(self) -> bool:
        """The interval excludes 1, and the difference is more than 2 %."""
        return not self.low <= 1.0 <= self.high and abs(self.value - 1.0) > MATTERS


class Comparison(Wire):
    """Two measurements whose blocks were interleaved, and what follows from them."""

    first: Measurement
    second: Measurement
    order: str = Field(pattern=r"^[AB]+$", description="In which the blocks ran; rejected ones are not in it")
    decode: Ratio
    ttft: Ratio

    @classmethod
    def of(cls, first: Measurement, second: Measurement, order: str) -> "Comparison":
        """Compare block by block, in the order of their pairs."""
        return cls(
            first=first,
            second=second,
            order=order,
            decode=Ratio.over_pairs(block_medians(first, "decode"), block_medians(second, "decode")),
            ttft=Ratio.over_pairs(block_medians(first, "ttft"), block_medians(second, "ttft")),
        )

    @property
    def verdict(self) -> str:
        """In words."""
        return "; ".join(f"{name}: {_said(ratio)}" for name, ratio in (("decode", self.decode), ("TTFT", self.ttft)))


def _said(ratio: Ratio) -> str:
    bounds = f"ratio {ratio.value:.3f}, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}, {ratio.pairs} pairs"
    if not ratio.claimed:
        return f"no difference may be claimed ({bounds})"
    return f"the second is {abs(ratio.value - 1):.1%} {'slower' if ratio.value > 1 else 'faster'} ({bounds})"


def abba(pairs: int) -> str:
    """The order of blocks: AB, BA, AB, ... so that what changes steadily cancels from pair to pair."""
    return "".join("AB" if pair % 2 == 0 else "BA" for pair in range(pairs))
