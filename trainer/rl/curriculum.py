"""Which levels problems are drawn from: those whose answers tell most, as the model grows.

A group of answers that are all right or all wrong has no advantages. Of a level with success rate p, answers differ
with a variance of p (1 - p), so that is its weight; a level passed long ago keeps a floor, so that it is not forgotten
unseen, and the next one has the same floor, so that the step up is not blind.

The hardest level has the full weight until enough is known of it, so that a model passes quickly over what it masters
from the start. It passes over what is beyond it, too: a level that is easier by name need not be easier for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.rewards.problem import number_of
from trainer.rl.options import CurriculumOptions

_DRAWN = 1 << 62  # of number_of


class Curriculum:
    """How often each level succeeds of late, and how far the model has come."""

    def __init__(self, levels: Sequence[str], options: CurriculumOptions) -> None:
        """`levels` are easy to hard; the first is where it starts."""
        self.levels = tuple(levels)
        self._options = options
        self._right = [0.0] * len(levels)
        self._tried = [0.0] * len(levels)
        self.reached = 0
        """The hardest level that was reached."""

    def rate(self, level: str) -> float:
        """Its success rate, with one right and one wrong answer added (Laplace's rule): 1/2 where nothing is known."""
        at = self.levels.index(level)
        return (self._right[at] + 1) / (self._tried[at] + 2)

    def record(self, level: str, right: float, tried: int) -> None:
        """Count answers of this step."""
        at = self.levels.index(level)
        self._right[at] += right
        self._tried[at] += tried

    def step(self) -> None:
        """End a step: go on over all levels that need not be waited for, and let old answers count less."""
        options = self._options
        while self.reached + 1 < len(self.levels) and self._passed():
            self.reached += 1
        self._right = [value * options.decay for value in self._right]
        self._tried = [value * options.decay for value in self._tried]

    def shares(self) -> dict[str, float]:
        """By level, how likely the next problem is one of it; they sum to one."""
        weights = [1.0] * len(self.levels)
        if self._options.sampling == "informative":
            weights = [self._weight(at) for at in range(len(self.levels))]
        return {level: weight / sum(weights) for level, weight in zip(self.levels, weights, strict=True)}

    def choose(self, *key: object) -> str:
        """A level, drawn by the shares; a pure function of them and the key."""
        drawn, passed = number_of("level", *key) / _DRAWN, 0.0
        for level, share in self.shares().items():
            passed += share
            if drawn < passed:
                return level
        return self.levels[-1]  # rounding

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as JSON."""
        return {"right": self._right, "tried": self._tried, "reached": self.reached}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be where `state` was taken."""
        self._right, self._tried, self.reached = list(state["right"]), list(state["tried"]), state["reached"]

    def _passed(self) -> bool:
        """Whether the hardest level is mastered, or the next one already, or it is beyond the model: none is right."""
        here, after = self.reached, self.reached + 1
        hopeless = self._known(here) and self._right[here] < 1
        return hopeless or any(
            self._known(at) and self.rate(self.levels[at]) >= self._options.promote for at in (here, after)
        )

    def _known(self, at: int) -> bool:
        return self._tried[at] >= self._options.least

    def _weight(self, at: int) -> float:
        if at > self.reached + 1:
            return 0.0
        if not self._known(at) and at >= self.reached:  # 1 where it is to be decided, before first answers speak
            return 1.0 if at == self.reached else self._options.floor
        rate = self.rate(self.levels[at])
        return max(self._options.floor, 4 * rate * (1 - rate))
