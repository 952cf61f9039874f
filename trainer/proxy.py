"""Proxy training: a short training on real text that ranks candidates by held-out bits per byte."""

from pathlib import Path

import torch

from trainer.architecture import Architecture
from trainer.data import Corpus
from trainer.engine import Run, bits_per_byte, hard_labels, train
from trainer.errors import CorpusError
from trainer.model import HybridLM
from trainer.recipe import Recipe

_HELD_OUT_WINDOWS = 256
# Many small steps rather than few large ones: with 8 sequences a step, deep models lag behind only for want of steps
# (128 wide, 8 deep, 60,000 tokens: 2.63 bits per byte with 8 sequences, 2.54 with 4).
_BATCH = 4


def score(
    architecture: Architecture,
    corpus_dir: Path,
    tokens: int = 80_000,
    sequence: int = 128,
    seed: int = 0,
    threads: int = 1,
) -> tuple[float, int]:
    """Train a fresh model on `tokens` tokens; (held-out bits per byte, tokens trained on). Lower is better.

    Deterministic for equal arguments on one machine. Made to run in a worker process of its own: it sets the
    process's number of threads.

    Raises:
        CorpusError: the corpus has another vocabulary, or too little text.
        TrainingDiverged: the loss is no longer a number.
    """
    torch.set_num_threads(threads)
    corpus = Corpus.open(corpus_dir)
    if corpus.vocab_size != architecture.vocab_size:
        raise CorpusError(
            f"the corpus has a vocabulary of {corpus.vocab_size}, the architecture one of {architecture.vocab_size}",
            advice="prepare the corpus with the architecture's vocab_size",
        )
    recipe = Recipe(tokens=tokens, batch=_BATCH, sequence=sequence, seed=seed)
    model = HybridLM(architecture, seed=seed)
    train(model, corpus, recipe, hard_labels, Run())
    found = bits_per_byte(model, corpus, sequence=sequence, windows=_HELD_OUT_WINDOWS)
    return found, recipe.steps * recipe.batch * recipe.sequence
