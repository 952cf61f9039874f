"""Losses that leap: when one is a spike, and which batches are passed over after it."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from trainer.recipe import Spikes

_NORMAL = 1.4826  # standard deviation of a normal distribution over its MAD
_SMALLEST = 1e-3  # of the median: losses that hardly differ are no measure of a spike


@dataclass
class Watch:
    """What a training remembers of its losses. It is saved with the state, so that a resumed one judges alike."""

    options: Spikes
    losses: deque[float] = field(init=False)
    skipped: int = 0
    """Batches passed over so far: step n reads batch n + skipped."""
    returns: int = 0

    def __post_init__(self) -> None:
        self.losses = deque(maxlen=self.options.window)

    def is_spike(self, loss: float) -> bool:
        """Whether `loss` leaps out; a loss that does not is remembered."""
        if not math.isfinite(loss):
            return True
        if len(self.losses) == self.options.window:
            middle = median(self.losses)
            spread = _NORMAL * median(abs(known - middle) for known in self.losses)
            if loss > middle + self.options.threshold * max(spread, _SMALLEST * abs(middle)):
                return True
        self.losses.append(loss)
        return False

    def state(self) -> dict[str, Any]:
        """What is saved."""
        return {"losses": list(self.losses), "skipped": self.skipped, "returns": self.returns}

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what `state` remembered."""
        self.losses = deque(state["losses"], maxlen=self.options.window)
        self.skipped, self.returns = state["skipped"], state["returns"]
