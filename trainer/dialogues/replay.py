"""Conversations mixed with windows of the corpus, so that what was learnt before them is not forgotten.

Mixing old data into the training on new data is experience replay (Robins 1995, "Catastrophic forgetting, rehearsal and
pseudorehearsal"); for language models see Scialom et al. 2022, arXiv 2205.12393, section 3.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from trainer.data import Batch, Corpus
from trainer.dialogues.dialogues import Dialogues
from trainer.linear_cross_entropy import IGNORED, linear_cross_entropy
from trainer.model import HybridLM


@dataclass(frozen=True)
class MixedBatch(Batch):
    """Windows of two kinds. `counts` [B, T] float32 is how much each target counts, 1 in all of a whole batch.

    A kind counts as its share of the windows, however many of its targets count: a window of the corpus has many times
    the targets of one whose answers alone are learnt, and would outvote it.
    """

    counts: Tensor

    @property
    def counted(self) -> float:
        """See `Batch`: of a part of a batch, its share of the loss."""
        return float(self.counts.double().sum())


class Replay:
    """Deals visits to conversations and to the corpus: of the first n, floor(share n) are the corpus's."""

    def __init__(self, chats: Dialogues, corpus: Corpus, share: float) -> None:
        self._chats, self._corpus, self._share = chats, corpus, Fraction(str(share))

    def batch(self, step: int, *, size: int, sequence: int, seed: int) -> MixedBatch:
        """The batch of a step, a pure function of its arguments; each kind in its own order, as if it were alone.

        Raises:
            CorpusError: as `Dialogues.batch` and `Corpus.batch` do.
        """
        first, last = step * size, (step + 1) * size
        dealt = [self._before(visit) for visit in range(first, last + 1)]
        old, new = range(dealt[0], dealt[-1]), range(first - dealt[0], last - dealt[-1])
        kinds = [
            _weighed(source.read(visits, sequence=sequence, seed=seed), size)
            for source, visits in ((self._chats, new), (self._corpus, old))
            if visits
        ]
        rows = torch.tensor([after > before for before, after in pairwise(dealt)])
        place = torch.empty(size, dtype=torch.int64)
        place[~rows] = torch.arange(len(new))
        place[rows] = torch.arange(len(old)) + len(new)
        names = ("inputs", "targets", "documents", "counts")
        joined = {name: torch.cat([getattr(kind, name) for kind in kinds])[place] for name in names}
        return MixedBatch(**joined, indices=torch.arange(first, last))

    def _before(self, visit: int) -> int:
        return math.floor(visit * self._share)


def mixed_labels(model: HybridLM, batch: Batch) -> Tensor:
    """Cross-entropy of the next token in nats, a mean in which each target counts as a `MixedBatch` says."""
    assert isinstance(batch, MixedBatch)
    h = model.hidden(batch.inputs, documents=batch.documents)
    return linear_cross_entropy(*model.head_factors(h), batch.targets, batch.counts)


def _weighed(batch: Batch, size: int) -> MixedBatch:
    """All windows of a kind in a batch of `size`: together they count as many as they are."""
    counted = batch.targets != IGNORED
    each = len(batch.inputs) / size / max(1, int(counted.sum()))
    return MixedBatch(batch.inputs, batch.targets, batch.documents, batch.indices, counted * each)
