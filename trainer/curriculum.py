"""A corpus whose windows grow in the course of a training, some of them replaced by retrieval tasks."""

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from trainer.data import Batch, Corpus
from trainer.evaluate.haystack import Text
from trainer.evaluate.retrieval import Needle, Task, episodes
from trainer.options import Phase

_MOST_NEEDLES, _FEWER = 64, 8  # a window has from an eighth of the most to the most, which a short one is filled by
_NEEDLE = Needle()
_ELSEWHERE = 1 << 32  # seeds that no evaluation uses


class Curriculum(Corpus):
    """Gives every step as many tokens, in windows of its phase's length.

    It is a corpus to the training loop, and still a pure function of the step: a resumed training goes on as it would
    have.
    """

    def __init__(
        self,
        corpus: Corpus,
        phases: Sequence[Phase],
        steps: int,
        *,
        long_share: float,
        retrieval_share: float,
        needle: Needle = _NEEDLE,
    ) -> None:
        super().__init__(corpus.directory, corpus.meta, corpus.tokenizer)
        self.phases, self.steps = phases, steps
        self.long_share, self.retrieval_share = long_share, retrieval_share
        self.needle = needle

    def batch(self, step: int, *, size: int, sequence: int, seed: int, long_share: float = 0.0) -> Batch:
        """The batch of a step: size x sequence tokens, whatever its phase's length."""
        begun, length = self.phase(step, sequence)
        rows = size * sequence // length
        share = max(long_share, self.long_share)
        text = super().batch(step - begun, size=rows, sequence=length, seed=seed, long_share=share)
        return self._with_tasks(text, step, seed)

    def phase(self, step: int, sequence: int) -> tuple[int, int]:
        """(the first step of the phase that `step` is in, its length); without phases all have `sequence`."""
        whole, told = sum(phase.share for phase in self.phases), 0.0
        begun, length = 0, sequence
        for phase in self.phases:
            first = round(self.steps * told / whole)
            if first <= step:
                begun, length = first, phase.length
            told += phase.share
        return begun, length

    def _with_tasks(self, text: Batch, step: int, seed: int) -> Batch:
        """Every so many rows become a haystack: their own text, with needles in it, as one document."""
        rows = len(text.inputs)
        numbers = range(step * rows, (step + 1) * rows)
        chosen = [row for row, number in enumerate(numbers) if _counts(number, self.retrieval_share)]
        if not chosen:
            return text
        inputs, targets = text.inputs.clone(), text.targets.clone()
        documents = torch.zeros_like(inputs) if text.documents is None else text.documents.clone()
        for row in chosen:
            window = torch.cat((inputs[row], targets[row, -1:]))
            inputs[row], targets[row] = self._task(window, _ELSEWHERE + seed * (1 << 20) + step * rows + row)
            documents[row] = 0
        return replace(text, inputs=inputs, targets=targets, documents=documents)

    def _task(self, window: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = len(window) - 1
        keys = self.needle.different(len(self.token_bytes))
        most = max(1, min(_MOST_NEEDLES, keys, length // (2 * self.needle.size)))
        needles = max(1, round(most * _FEWER ** -random.Random(seed).random()))
        haystack = Text(window, self.token_bytes, self.end_of_text)
        made = episodes(haystack, Task(needles, needles, self.needle), count=1, length=length, seed=seed)
        return made.inputs[0], made.targets[0]


def _counts(number: int, share: float) -> bool:
    """Whether it is one of those that make up `share` of all, evenly spread."""
    return int((number + 1) * share) > int(number * share)
