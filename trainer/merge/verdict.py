"""A merge against its parents, on what was held out: searched on one half of it, judged on the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainer.checkpoint import Checkpoint
from trainer.merge.models import check, merged
from trainer.merge.recipe import MergeRecipe
from trainer.merge.search import Report, Weights, search_weights
from trainer.model import HybridLM

Measure = Callable[[HybridLM], float]
"""A figure of a model; lower is better."""


@dataclass(frozen=True)
class Scores:
    """Held-out figures of one model, by distribution; lower is better."""

    name: str
    figures: dict[str, float]

    @property
    def mean(self) -> float:
        """Over distributions, each counted once however large it is."""
        return sum(self.figures.values()) / len(self.figures)


@dataclass(frozen=True)
class Verdict:
    """How it ended. `merge` is kept only if `won`."""

    recipe: MergeRecipe
    parents: tuple[Scores, ...]
    merge: Scores
    model: HybridLM

    @property
    def best_parent(self) -> Scores:
        """The one to beat."""
        return min(self.parents, key=lambda parent: parent.mean)

    @property
    def won(self) -> bool:
        """Whether the merge is better than every parent on the mean."""
        return self.merge.mean < self.best_parent.mean


class HeldOut:
    """What models are compared by: of every distribution a half to search on, and a half to judge by."""

    def __init__(self, halves: Mapping[str, tuple[Measure, Measure]]) -> None:
        """By the distribution's name."""
        self._halves = halves

    def search(self, model: HybridLM) -> float:
        """Mean over the distributions, on the first half."""
        return self._scores("", model, 0).mean

    def judge(self, name: str, model: HybridLM) -> Scores:
        """On the second half."""
        return self._scores(name, model, 1)

    def _scores(self, name: str, model: HybridLM, half: int) -> Scores:
        return Scores(name, {where: measures[half](model) for where, measures in self._halves.items()})


def merge_and_judge(
    recipe: MergeRecipe,
    models: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    held_out: HeldOut,
    *,
    evaluations: int,
    report: Report,
) -> Verdict:
    """Merge `models`, with searched weights if the recipe names none, and compare the result with its parents.

    Args:
        recipe: the method; weights that it names are taken as they are.
        models: the parents by name.
        base: what they were trained from.
        held_out: what they are compared by.
        evaluations: merges to try at most.
        report: told after every merge that was tried.

    Raises:
        MergeError: they cannot be merged.
    """
    parents = list(models.values())
    check(recipe, parents, base)
    if recipe.weights is None and recipe.method != "model_stock" and len(parents) > 1:
        weights = _searched(recipe, parents, base, held_out, evaluations, report)
        recipe = recipe.model_copy(update={"weights": weights})
    model = merged(recipe, parents, base)
    judged = tuple(held_out.judge(name, parent.model()) for name, parent in models.items())
    return Verdict(recipe, judged, held_out.judge("merge", model), model)


def _searched(
    recipe: MergeRecipe,
    parents: Sequence[Checkpoint],
    base: Checkpoint | None,
    held_out: HeldOut,
    evaluations: int,
    report: Report,
) -> Weights:
    def value(weights: Weights) -> float:
        return held_out.search(merged(recipe.model_copy(update={"weights": weights}), parents, base))

    on_simplex = recipe.averages or not recipe.needs_base
    found, _ = search_weights(value, len(parents), evaluations, on_simplex=on_simplex, report=report)
    return found
