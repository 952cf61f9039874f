"""Lever 5: three specialists merged, against them and against one model of the mixture at equal tokens."""

import random
from collections.abc import Callable
from pathlib import Path

from levers.ground import EXACT, NATS, TRAINED, Figure, Ground, Lever, Row, Rows, conversation, mean, problem, write
from trainer.checkpoint import Checkpoint
from trainer.merge.models import merged
from trainer.merge.recipe import MergeRecipe
from trainer.merge.search import Weights, search_weights
from trainer.model import HybridLM
from trainer.rewards import Problem, is_held_out

_ROWS, _JUDGED, _EVALUATIONS = 1_000, 240, 24
_METHODS = (MergeRecipe(method="linear"), MergeRecipe(method="task_arithmetic"), MergeRecipe(method="ties"))


def _symbols(seed: int, number: int, held_out: bool) -> Row:
    each = problem("larger-2", "symbols", seed, number, held_out=held_out)
    return {"prompt": each.prompt, "answer": each.answer}


def _after(seed: int, number: int, held_out: bool) -> Row:
    """What the base has read as `471+1=`, in words."""
    return _first(lambda a: (f"after {a}", str(a + 1)), f"after/{seed}/{number}", held_out)


def _end(seed: int, number: int, held_out: bool) -> Row:
    """What the base has read as `471%10=`, in words."""
    return _first(lambda a: (f"end of {a}", str(a % 10)), f"end/{seed}/{number}", held_out)


def _first(asked: Callable[[int], tuple[str, str]], key: str, held_out: bool) -> Row:
    dice = random.Random(key)
    while True:
        prompt, answer = asked(dice.randrange(100, 1000))
        if is_held_out(Problem(prompt, "", "", "")) == held_out:
            return {"prompt": prompt, "answer": answer}


_KINDS: dict[str, Callable[[int, int, bool], Row]] = {"symbols": _symbols, "after": _after, "end": _end}


def _file(ground: Ground, kind: str, seed: int, part: str) -> Path:
    """Conversations of a kind: to train on, to search weights by, or to judge by; no prompt is in two of them."""
    file = ground.home / f"{kind}-{part}-{seed}.jsonl"
    if not file.exists():
        held_out, count = part != "train", _ROWS if part == "train" else 2 * _JUDGED
        made = {row["prompt"]: row["answer"] for n in range(count) for row in [_KINDS[kind](seed, n, held_out)]}
        rows = [conversation(*each) for each in made.items()]
        write(file, rows if part == "train" else rows[part == "judge" :: 2])
    return file


def _judged(ground: Ground, model: HybridLM, seed: int, part: str) -> dict[str, float]:
    """Means over the kinds, each counted once, and the share of right answers of each."""
    each = {kind: ground.answers(model, ground.read(_file(ground, kind, seed, part))) for kind in _KINDS}
    return mean(list(each.values())) | {f"exact/{kind}": found["answers/exact"] for kind, found in each.items()}


def _searched(ground: Ground, recipe: MergeRecipe, parents: list[Checkpoint], seed: int) -> tuple[MergeRecipe, float]:
    """The recipe with the weights that are best on what is held out for the search, and nats a token there."""

    def value(weights: Weights) -> float:
        model = merged(recipe.model_copy(update={"weights": weights}), parents, ground.base)
        return _judged(ground, model, seed, "search")["answers/nats"]

    on_simplex = recipe.averages or not recipe.needs_base
    weights, best = search_weights(
        value, len(parents), _EVALUATIONS, on_simplex=on_simplex, report=lambda *_: ground.stop_if_late()
    )
    return recipe.model_copy(update={"weights": weights}), best


def rows(ground: Ground, seed: int) -> Rows:
    found: Rows = {"base": _judged(ground, ground.base.model(), seed, "judge")}
    files = {kind: _file(ground, kind, seed, "train") for kind in _KINDS}
    place = f"merging-{seed}"
    parents = {kind: ground.taught(file, ground.base, seed, place)[0] for kind, file in files.items()}
    for kind, parent in parents.items():
        found[f"specialist: {kind}"] = _judged(ground, parent.model(), seed, "judge")
    mixed, _ = ground.taught(list(files.values()), ground.base, seed, place, tokens=len(files) * TRAINED)
    best = min((row for name, row in found.items() if name != "base"), key=lambda row: row["answers/nats"])
    found["best specialist"] = best
    searched = [_searched(ground, recipe, list(parents.values()), seed) for recipe in _METHODS]
    for recipe, _ in searched:
        model = merged(recipe, list(parents.values()), ground.base)
        found[f"merged: {recipe.method}"] = _judged(ground, model, seed, "judge")
    chosen, _ = min(searched, key=lambda each: each[1])
    found["merged, method as searched"] = found[f"merged: {chosen.method}"]
    found["mixture, equal tokens"] = _judged(ground, mixed.model(), seed, "judge")
    return found


LEVER = Lever(
    "merging",
    f"three specialists of {TRAINED:,} tokens each, merged with weights searched on held-out conversations in "
    f"{_EVALUATIONS} merges a method; judged on others, mean of the three kinds",
    rows,
    (EXACT, NATS, *(Figure(f"exact/{kind}", f"right, {kind}, %", 100, 1) for kind in _KINDS)),
    (
        ("merged against its best parent", "merged, method as searched", "best specialist"),
        ("merged against the mixture", "merged, method as searched", "mixture, equal tokens"),
        ("TIES against the plain mean", "merged: ties", "merged: linear"),
    ),
)
