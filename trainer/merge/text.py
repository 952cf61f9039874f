"""Held-out text to compare models by, in bits per byte."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from tokenizers import Tokenizer

from trainer.data import Batch, Corpus
from trainer.engine import bits_of
from trainer.errors import CorpusError, TokenizerError
from trainer.merge.verdict import HeldOut, Measure

_BATCH = 8


def held_out_text(corpora: Mapping[str, Corpus], tokenizer: Tokenizer, *, sequence: int, windows: int) -> HeldOut:
    """Every source of every corpus is a distribution, of at most `windows` windows of `sequence` tokens.

    Raises:
        TokenizerError: a corpus was prepared with another tokenizer than `tokenizer`, the models'.
        CorpusError: all are too short for a window.
    """
    halves: dict[str, tuple[Measure, Measure]] = {}
    for corpus_name, corpus in corpora.items():
        if corpus.tokenizer.to_str() != tokenizer.to_str():
            raise TokenizerError(
                f"{corpus_name} was prepared with another tokenizer than the models'",
                advice="prepare the text again with the models' tokenizer.json",
            )
        for source in corpus.sources_held_out(sequence):
            name = source if len(corpora) == 1 else f"{corpus_name}: {source}"
            one_by_one = list(corpus.held_out(size=1, sequence=sequence, windows=windows, source=source))
            # A single window serves both: too little text to tell them apart.
            searched, judged = (
                partial(bits_of, batches=_batched(one_by_one[half::2] or one_by_one), token_bytes=corpus.token_bytes)
                for half in (0, 1)
            )
            halves[name] = searched, judged
    if not halves:
        raise CorpusError(f"no held-out text is {sequence} tokens long", advice="say a shorter --sequence")
    return HeldOut(halves)


def _batched(windows: Sequence[Batch]) -> list[Batch]:
    groups = [windows[first : first + _BATCH] for first in range(0, len(windows), _BATCH)]
    return [Batch(*(torch.cat([getattr(w, n) for w in group]) for n in _FIELDS)) for group in groups]


_FIELDS = tuple(Batch.__dataclass_fields__)
