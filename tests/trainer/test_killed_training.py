"""Kill -9 at random moments, many times in one training: its weights are those of an undisturbed one, to the bit."""

import os
import random
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from together import started, together

from trainer.architecture import Architecture
from trainer.checkpoint import Rolling
from trainer.data import Corpus
from trainer.engine import Run, hard_labels, train
from trainer.model import HybridLM
from trainer.ranks import Ranks
from trainer.recipe import Recipe

_RECIPE = Recipe(tokens=4 * 32 * 80, batch=4, sequence=32, learning_rate=1e-2, seed=5)

Weights = dict[str, NDArray[np.float32]]


def _train(ranks: Ranks, corpus: Path, architecture: Architecture, rolling: Path | None) -> Weights:
    """Carry a training on to its end, saved at every step."""
    model = HybridLM(architecture, seed=2)
    run = Run(Rolling(rolling, ranks) if rolling else None, ranks, save_seconds=0)
    train(model, Corpus.open(corpus), _RECIPE, hard_labels, run)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _kill(ranks: list[BaseProcess], rolling: Path, moments: random.Random) -> bool:
    """Kill one of them: in the middle of writing a checkpoint, or up to 30 ms after one; whether a half is left."""
    known = {path.name for path in rolling.glob("*-step-*")}
    wanted = ".*.draft" if moments.random() < 0.5 else "*-step-*[0-9]"
    deadline = time.monotonic() + 60
    while all(path.name in known for path in rolling.glob(wanted)):
        assert time.monotonic() < deadline
        assert all(rank.is_alive() for rank in ranks)
        time.sleep(0.0005)  # else we take the core from whom we wait for
    time.sleep(moments.random() * (0.002 if wanted.endswith("draft") else 0.03))
    victim = moments.choice(ranks)
    assert victim.pid is not None
    with suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGKILL)
    for rank in ranks:
        rank.join(timeout=30)
    assert all(rank.exitcode for rank in ranks)  # the others noticed
    return any(rolling.glob(".*.draft"))


@pytest.mark.parametrize(("world", "kills"), [(1, 20), (2, 5)])
def test_a_training_that_is_killed_over_and_over(
    world: int, kills: int, corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    calm = together(world, _train, corpus.directory, tiny, None)
    moments, halves, seen = random.Random(world), 0, set[str]()
    for _ in range(kills):
        with started(world, _train, corpus.directory, tiny, tmp_path) as ranks:
            halves += _kill([process for process, _ in ranks], tmp_path, moments)
        seen |= {path.name for path in tmp_path.glob("*-step-*")}
    assert halves >= kills // 5  # checkpoints were cut off, not only steps
    assert len(seen) > kills // 3
    assert len(list(tmp_path.glob(".*"))) <= 1  # and what was cut off did not pile up
    for found, wanted in zip(together(world, _train, corpus.directory, tiny, tmp_path), calm, strict=True):
        assert all((found[name] == weight).all() for name, weight in wanted.items())
