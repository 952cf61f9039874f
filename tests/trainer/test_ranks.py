"""One training over 1, 2 and 4 processes on this host's processors: the same curve, and nothing lost."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from together import together
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from trainer import pipeline
from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint, Rolling
from trainer.data import Batch, Corpus
from trainer.engine import Run, hard_labels, train
from trainer.errors import Interrupted, StorageFull, TrainerError, TrainingDiverged, UnevenBatch
from trainer.model import HybridLM
from trainer.pretrain import Pretrain, Teacher
from trainer.qat import Qat
from trainer.ranks import Ranks
from trainer.recipe import Recipe, Spikes
from trainer.rounding import Noise, RoundedAdamW

_RECIPE = Recipe(tokens=8 * 32 * 12, batch=8, sequence=32, learning_rate=1e-2, seed=5)
_ROUNDED = 0.1 * _RECIPE.learning_rate
_RICH = _RECIPE.model_copy(
    update={
        "optimiser": "muon",
        "micro_batch": 2,
        "ema": 0.9,
        "checkpoint_activations": True,
        "evaluate_every": 4,
        "spikes": Spikes(every=2),
    }
)
_SMALL = {"tokens": 8 * 32 * 4, "batch": 8, "sequence": 32}

Trained = tuple[dict[int, float], dict[str, NDArray[np.float32]]]
"""(loss by tokens done, weights)."""


def _train(
    ranks: Ranks, corpus: Path, architecture: Architecture, rolling: Path | None, until: int, recipe: Recipe = _RECIPE
) -> Trained:
    """Carry on a training until so many steps are done."""
    losses: dict[int, float] = {}

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        losses[done // 256] = metrics["loss"]

    model = HybridLM(architecture, seed=2)
    run = Run(
        Rolling(rolling, ranks) if rolling else None,
        ranks,
        report=report,
        should_stop=lambda: ranks.first and until in losses,  # the others hear of it
    )
    with suppress(Interrupted):
        train(model, Corpus.open(corpus), recipe, hard_labels, run)
    return losses, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_one_two_and_four_ranks_learn_alike_and_carry_each_other_on(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    alone, weights = _train(Ranks.alone(), corpus.directory, tiny, None, until=99)
    given = (corpus.directory, tiny)
    calm = together(2, _train, *given, None, 99)
    for losses, found in (*calm, together(4, _train, *given, None, 99)[0]):
        assert losses == pytest.approx(alone, rel=1e-5)
        for name, weight in weights.items():
            # Sums are rounded in another order, and Adam makes of that a share of the rate where a gradient is small.
            assert found[name] == pytest.approx(weight, abs=_ROUNDED), name

    passed: dict[int, float] = {}
    for world, until in ((1, 3), (2, 5), (4, 8), (1, 10), (2, 99)):
        if world == 1:
            losses, found = _train(Ranks.alone(), *given, tmp_path / "passed on", until)
        else:
            losses, found = together(world, _train, *given, tmp_path / "passed on", until)[0]
        assert min(losses) == len(passed) + 1
        passed |= losses
    assert passed == pytest.approx(alone, rel=1e-5)

    for until in (4, 9, 99):
        resumed = together(2, _train, *given, tmp_path / "resumed", until)
    for (_, found), (_, undisturbed) in zip(resumed, calm, strict=True):
        assert all((found[name] == weight).all() for name, weight in undisturbed.items())


def test_what_a_recipe_can_ask_for_is_the_same_over_ranks(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    """Muon's whole matrices, passes over parts of the batch, averaged weights, figures and saved states on the way."""
    alone, weights = _train(Ranks.alone(), corpus.directory, tiny, tmp_path / "alone", 99, _RICH)
    together(2, _train, corpus.directory, tiny, tmp_path / "ranks", 7, _RICH)
    losses, found = together(2, _train, corpus.directory, tiny, tmp_path / "ranks", 99, _RICH)[0]
    assert losses == pytest.approx({step: loss for step, loss in alone.items() if step >= min(losses)}, rel=1e-4)
    assert min(losses) == 7  # the state after six steps was saved
    for name, weight in weights.items():
        assert found[name] == pytest.approx(weight, abs=1e-3), name


def _stages() -> list[Teacher | Pretrain | Qat]:
    return [
        Teacher(**_SMALL),
        Pretrain(**_SMALL),
        Qat(**_SMALL, masters="bfloat16", scales="learned", stochastic_forward=True, calibration_windows=2),
    ]


def _pipeline(ranks: Ranks, corpus: Path, architecture: Architecture, directory: Path) -> tuple[str, list[str]]:
    final, outcomes = pipeline.run(_stages(), architecture, corpus, directory, ranks=ranks)
    return str(final.directory), [outcome.model_dump_json() for outcome in outcomes]


def test_every_stage_that_trains_does_so_over_ranks(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    _, outcomes = pipeline.run(_stages(), tiny, corpus.directory, tmp_path / "alone")
    first, second = together(2, _pipeline, corpus.directory, tiny, tmp_path / "ranks")
    assert first == second
    found = [pipeline.Outcome.model_validate_json(outcome) for outcome in first[1]]
    for one, other in zip(found, outcomes, strict=True):
        assert one.after == pytest.approx(other.after, rel=1e-2)
        assert one.before == pytest.approx(other.before, rel=2e-3)
    assert Checkpoint(Path(first[0])).packing() is not None
    assert together(2, _pipeline, corpus.directory, tiny, tmp_path / "ranks")[0] == first  # and is not done twice


def _rounded(ranks: Ranks) -> NDArray[np.float32]:
    """Weights in bfloat16 after steps whose rounding is drawn."""
    weight = torch.linspace(-1, 1, 5 * 7).view(5, 7).bfloat16()
    parameter = nn.Parameter(distribute_tensor(weight, ranks.mesh, [Shard(0)]) if ranks.mesh else weight)
    optimiser = RoundedAdamW([{"params": [parameter]}], {parameter: "a name"}, Noise(3), lr=1e-2)
    for step in range(3):
        gradient = torch.sin(torch.arange(35.0) * (step + 1)).view(5, 7).bfloat16()
        parameter.grad = distribute_tensor(gradient, ranks.mesh, [Shard(0)]) if ranks.mesh else gradient
        optimiser.step()
    whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    found: NDArray[np.float32] = whole.detach().float().numpy()
    return found


def test_rounding_at_random_does_not_depend_on_the_ranks() -> None:
    alone = _rounded(Ranks.alone())
    for found in together(4, _rounded):  # of five rows the last rank holds none
        assert (found == alone).all()


def _refusals(ranks: Ranks, corpus: Path, architecture: Architecture, disk: Path) -> list[str]:
    """What each rank hears when only one of them, or only the second's disk, has a fault."""
    read, heard = Corpus.open(corpus), []

    def nan_here(model: HybridLM, batch: Batch) -> Tensor:
        return hard_labels(model, batch) * (1.0 if ranks.first else float("nan"))

    def attempt(recipe: Recipe, run: Run) -> None:
        try:
            train(HybridLM(architecture), read, recipe, nan_here, run)
        except TrainerError as wrong:
            heard.append(f"{wrong.slug}: {wrong.message} {wrong.advice}")

    attempt(_RECIPE, Run(ranks=ranks))
    attempt(_RECIPE.model_copy(update={"batch": 7}), Run(ranks=ranks))
    rolling = Rolling(disk, ranks)
    rolling.save({"little": torch.ones(10)}, 1, {"step": 1})
    try:
        rolling.save({f"big {ranks.rank}": torch.ones(1 << (10 if ranks.first else 19))}, 2, {"step": 2})
    except StorageFull as wrong:
        heard.append(f"{wrong.slug}: {wrong.message} {wrong.advice}")
    latest = rolling.latest()
    heard.append(str(latest and latest.notes))
    return heard


def test_a_fault_of_one_rank_is_told_by_all(corpus: Corpus, tiny: Architecture, small_disk: Path) -> None:
    for diverged, uneven, full, kept in together(2, _refusals, corpus.directory, tiny, small_disk / "rolling"):
        assert diverged.startswith(f"{TrainingDiverged.slug}: the loss is nan at step 0")
        assert uneven.startswith(f"{UnevenBatch.slug}: a batch of 7 sequences")
        assert "make the batch a multiple of 2" in uneven
        assert full.startswith(f"{StorageFull.slug}: ")
        assert f"file system at {small_disk}" in full
        assert kept == "{'step': 1}"
    assert len(list((small_disk / "rolling").iterdir())) == 1
