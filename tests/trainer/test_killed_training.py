"""Kill -9 at random moments, many times in one training: its weights are those of an undisturbed one, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from together import started, together

from trainer import pipeline
from trainer.architecture import Architecture
from trainer.checkpoint import Rolling
from trainer.data import Corpus
from trainer.engine import Run, hard_labels, train
from trainer.model import HybridLM
from trainer.pretrain import Pretrain
from trainer.ranks import Ranks
from trainer.recipe import Recipe

Weights = dict[str, NDArray[np.float32]]


def _train(ranks: Ranks, corpus: Path, architecture: Architecture, steps: int, rolling: Path | None) -> Weights:
    """Carry a training on to its end, saved at every step."""
    recipe = Recipe(tokens=4 * 32 * steps, batch=4, sequence=32, learning_rate=1e-2, seed=5)
    model = HybridLM(architecture, seed=2)
    run = Run(Rolling(rolling, ranks) if rolling else None, ranks, save_seconds=0)
    train(model, Corpus.open(corpus), recipe, hard_labels, run)
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


def killed_over_and_over(
    world: int, kills: int, corpus: Path, architecture: Architecture, rolling: Path, seed: int = 0
) -> tuple[int, int]:
    """Train to the end, killed so many times; (kills in the middle of a checkpoint, checkpoints between kills).

    Raises:
        AssertionError: the weights are not those of an undisturbed training, or halves of checkpoints pile up.
    """
    given = (corpus, architecture, 20 + 4 * kills)  # steps enough to be killed in
    calm = together(world, _train, *given, None)
    moments, halves, seen = random.Random(seed), 0, set[str]()
    for _ in range(kills):
        with started(world, _train, *given, rolling) as ranks:
            halves += _kill([process for process, _ in ranks], rolling, moments)
        seen |= {path.name for path in rolling.glob("*-step-*")}
    assert len(list(rolling.glob(".*"))) <= 1
    for found, wanted in zip(together(world, _train, *given, rolling), calm, strict=True):
        assert all((found[name] == weight).all() for name, weight in wanted.items())
    return halves, len(seen)


@pytest.mark.parametrize(("world", "kills"), [(1, 8), (2, 2)])
def test_a_training_that_is_killed_over_and_over(
    world: int, kills: int, corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    """Twenty times, and more ranks: `make soak-train`."""
    halves, seen = killed_over_and_over(world, kills, corpus.directory, tiny, tmp_path)
    assert halves >= 1  # checkpoints were cut off, not only steps
    assert seen > kills // 3


_STAGE = Pretrain(tokens=5120, batch=4, sequence=32, learning_rate=0.01)


def _sealed(ranks: Ranks, architecture: Architecture, corpus: Path, out: Path) -> str:
    return pipeline.run([_STAGE], architecture, corpus, out, ranks=ranks)[0].directory.name


def test_a_killed_rank_is_started_again_by_torchrun(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    calm = together(2, _sealed, tiny, corpus.directory, tmp_path / "calm")[0]
    file, out = tmp_path / "architecture.json", tmp_path / "out"
    file.write_text(tiny.model_dump_json())
    stage = "pretrain:tokens=5120,batch=4,sequence=32,learning_rate=0.01"
    fulcrum = [str(Path(sys.executable).with_name("fulcrum")), "train", str(out), "--architecture", str(file)]
    fulcrum += ["--corpus", str(corpus.directory), "--stage", stage, "--save-seconds=0", "--json"]
    elastic = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.1", "--no-python"]
    agent = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *elastic, *fulcrum],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("00-pretrain-*/training/*-step-*[0-9]")):
        assert time.monotonic() < deadline
        assert agent.poll() is None, agent.communicate()
        time.sleep(0.01)
    workers = [line for task in Path(f"/proc/{agent.pid}/task").iterdir() for line in (task / "children").open()]
    os.kill(int(workers[0].split()[-1]), signal.SIGKILL)
    found, heard = agent.communicate(timeout=200)
    assert agent.returncode == 0, heard
    assert "exitcode: -9" in heard
    assert "lost another" in heard  # in the words of the rank that was left
    assert Path(json.loads(found)["checkpoint"]).name == calm
