"""A merge against its parents, on held-out text: searched on one half of it, judged on the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.checkpoint import Checkpoint
from trainer.data import Batch, Corpus
from trainer.engine import bits_of
from trainer.errors import CorpusError, TokenizerError
from trainer.merge.models import check, merged
from trainer.merge.recipe import MergeRecipe
from trainer.merge.search import Report, Weights, search_weights
from trainer.model import HybridLM

_BATCH = 8


@dataclass(frozen=True)
class Scores:
    """Held-out bits per byte of one model, by distribution; lower is better."""

    name: str
    bits_per_byte: dict[str, float]

    @property
    def mean(self) -> float:
        """Over distributions, each counted once however large it is."""
        return sum(self.bits_per_byte.values()) / len(self.bits_per_byte)


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
    """Held-out windows of every source of every corpus, dealt into a half to search on and a half to judge by."""

    def __init__(self, corpora: Mapping[str, Corpus], *, sequence: int, windows: int) -> None:
        self._token_bytes: dict[str, Tensor] = {}
        self._halves: tuple[dict[str, list[Batch]], dict[str, list[Batch]]] = ({}, {})
        for corpus_name, corpus in corpora.items():
            for source in corpus.sources_held_out(sequence):
                name = source if len(corpora) == 1 else f"{corpus_name}: {source}"
                one_by_one = list(corpus.held_out(size=1, sequence=sequence, windows=windows, source=source))
                for half, batches in enumerate(self._halves):
                    # A single window serves both: too little text to tell them apart.
                    batches[name] = _batched(one_by_one[half::2] or one_by_one)
                self._token_bytes[name] = corpus.token_bytes
        if not self._token_bytes:
            raise CorpusError(f"no held-out text is {sequence} tokens long", advice="say a shorter --sequence")

    def search(self, model: HybridLM) -> float:
        """Mean over the distributions, on the first half."""
        return self._scores("", model, 0).mean

    def judge(self, name: str, model: HybridLM) -> Scores:
        """On the second half."""
        return self._scores(name, model, 1)

    def _scores(self, name: str, model: HybridLM, half: int) -> Scores:
        found = {where: bits_of(model, part, self._token_bytes[where]) for where, part in self._halves[half].items()}
        return Scores(name, found)


def merge_and_judge(
    recipe: MergeRecipe,
    models: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    corpora: Mapping[str, Corpus],
    *,
    evaluations: int,
    sequence: int,
    windows: int,
    report: Report,
) -> Verdict:
    """Merge `models`, with searched weights if the recipe names none, and compare the result with its parents.

    Args:
        recipe: the method; weights that it names are taken as they are.
        models: the parents by name.
        base: what they were trained from.
        corpora: prepared with the models' tokenizer.
        evaluations: merges to try at most.
        sequence: tokens of a held-out window.
        windows: of every source, at most.
        report: told after every merge that was tried.

    Raises:
        MergeError: they cannot be merged.
        TokenizerError: a corpus was prepared with another tokenizer.
        CorpusError: a corpus is too short.
    """
    parents = list(models.values())
    check(recipe, parents, base)
    for name, corpus in corpora.items():
        if corpus.tokenizer.to_str() != parents[0].tokenizer.to_str():
            raise TokenizerError(
                f"{name} was prepared with another tokenizer than the models'",
                advice="prepare the text again with the models' tokenizer.json",
            )
    held_out = HeldOut(corpora, sequence=sequence, windows=windows)
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


def _batched(windows: Sequence[Batch]) -> list[Batch]:
    groups = [windows[first : first + _BATCH] for first in range(0, len(windows), _BATCH)]
    return [Batch(*(torch.cat([getattr(w, n) for w in group]) for n in _FIELDS)) for group in groups]


_FIELDS = tuple(Batch.__dataclass_fields__)
