"""The options of a training step, each against what it must equal."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.architecture import LFM2_350M, Architecture, Attention, ShortConv
from trainer.checkpoint import Rolling
from trainer.data import Batch, Corpus
from trainer.engine import Loss, Run, bits_per_byte, hard_labels, train
from trainer.errors import Interrupted, TrainingDiverged
from trainer.metrics import training_flops
from trainer.model import HybridLM
from trainer.muon import orthogonalised
from trainer.recipe import Recipe, Spikes

_RECIPE = Recipe(tokens=4 * 32 * 24, batch=4, sequence=32, learning_rate=1e-2, seed=5)


def _trained(
    corpus: Corpus, tiny: Architecture, loss: Loss = hard_labels, run: Run | None = None, **fields: object
) -> HybridLM:
    model = HybridLM(tiny, seed=2)
    train(model, corpus, _RECIPE.model_copy(update=fields), loss, run or Run())
    return model


def _distance(one: HybridLM, other: HybridLM) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def _same(one: HybridLM, other: HybridLM) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_cosine_rises_and_ends_near_zero() -> None:
    recipe = Recipe(tokens=16 * 128 * 100, batch=16, warmup=0.1, schedule="cosine")
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_one_dial_sizes_a_recipe_and_leaves_what_is_given() -> None:
    recipe = Recipe.sized(LFM2_350M)
    assert recipe.tokens == 20 * LFM2_350M.parameters
    assert 300_000 < recipe.batch * recipe.sequence < 800_000  # half a million, as is usual at this size
    assert recipe.micro_batch == 4
    half = Recipe.sized(LFM2_350M, 0.5, seed=3, sequence=1024)
    assert (half.tokens, half.seed, half.sequence) == (10 * LFM2_350M.parameters, 3, 1024)
    assert Recipe.sized(LFM2_350M, tokens=1000, batch=2).model_dump(include={"tokens", "batch", "micro_batch"}) == {
        "tokens": 1000,
        "batch": 2,
        "micro_batch": None,
    }


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_take_the_step_of_the_whole(corpus: Corpus, tiny: Architecture, micro: int) -> None:
    few = {"tokens": 4 * 32 * 3}
    # Adam divides a gradient by its size, so that rounding is a share of the rate.
    bound = 0.01 * _RECIPE.learning_rate
    assert _distance(_trained(corpus, tiny, **few), _trained(corpus, tiny, micro_batch=micro, **few)) < bound


def test_recomputed_activations_change_no_bit(corpus: Corpus, tiny: Architecture) -> None:
    assert _same(_trained(corpus, tiny), _trained(corpus, tiny, checkpoint_activations=True))


def test_bfloat16_keeps_weights_in_float32_and_learns_as_well(corpus: Corpus, tiny: Architecture) -> None:
    full, half = _trained(corpus, tiny), _trained(corpus, tiny, precision="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert not _same(full, half)
    one, other = (bits_per_byte(model, corpus, sequence=32, windows=40) for model in (full, half))
    assert other == pytest.approx(one, rel=0.02)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 7
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert 0.6 < values.min() < values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(
        orthogonalised(matrix).flatten(), (left @ right).flatten(), dim=0
    ) > 0.95  # fmt: skip


@pytest.mark.parametrize("fields", [{"optimiser": "muon", "ema": 0.9}, {"spikes": Spikes(every=3, window=8)}])
def test_what_is_stopped_carries_on_to_the_same_bits(
    corpus: Corpus, tiny: Architecture, tmp_path: Path, fields: dict[str, object]
) -> None:
    whole = _trained(corpus, tiny, run=Run(Rolling(tmp_path / "whole")), **fields)
    for _ in range(10):
        asked = iter([False] * 5 + [True])
        run = Run(Rolling(tmp_path / "stopped"), should_stop=lambda asked=asked: next(asked))
        try:
            stopped = _trained(corpus, tiny, run=run, **fields)
        except Interrupted:
            continue
        break
    assert _same(whole, stopped)


def test_muon_lowers_the_loss_and_moves_every_parameter(corpus: Corpus, tiny: Architecture) -> None:
    fresh, trained = HybridLM(tiny, seed=2), _trained(corpus, tiny, optimiser="muon")
    assert bits_per_byte(trained, corpus, sequence=32) < 0.8 * bits_per_byte(fresh, corpus, sequence=32)
    assert not any(torch.equal(a, b) for a, b in zip(fresh.parameters(), trained.parameters(), strict=True))


def test_the_average_is_the_mean_of_the_steps_weights(corpus: Corpus, tiny: Architecture) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    model = HybridLM(tiny, seed=2)

    def kept(_: int) -> None:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})

    run = Run()
    run.before_step = kept
    train(model, corpus, _RECIPE.model_copy(update={"ema": 0.5}), hard_labels, run)
    seen.append({n: p.clone() for n, p in _trained(corpus, tiny).named_parameters()})
    for name, parameter in model.named_parameters():
        expected = seen[0][name]
        for step, weights in enumerate(seen[1:], start=1):
            expected = torch.lerp(expected, weights[name], 1 - min(0.5, (1 + step) / (10 + step)))
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


def _poisoned(batches: set[int], corpus: Corpus, factor: float) -> Loss:
    bad = [corpus.batch(n, size=4, sequence=32, seed=5).inputs for n in batches]

    def loss(model: HybridLM, batch: Batch) -> torch.Tensor:
        value = hard_labels(model, batch)
        return value * factor if any(torch.equal(batch.inputs, one) for one in bad) else value

    return loss


@pytest.mark.parametrize("factor", [50.0, math.nan])
def test_a_spike_returns_to_the_saved_state_and_passes_its_batches_over(
    corpus: Corpus, tiny: Architecture, tmp_path: Path, factor: float
) -> None:
    spikes = Spikes(every=5, window=8)
    heard: list[dict[str, float]] = []
    run = Run(Rolling(tmp_path), report=lambda done, total, metrics: heard.append(metrics))
    left = _trained(corpus, tiny, _poisoned({12}, corpus, factor), run, spikes=spikes)

    class Without(Corpus):
        """The same batches, of which 10 to 12 were never there."""

        def batch(self, step: int, **size: int) -> Batch:
            return super().batch(step if step < 10 else step + 3, **size)

    other = Without(corpus.directory, corpus.meta, corpus.tokenizer)
    assert _same(left, _trained(other, tiny))
    assert heard[-1]["spikes"] == 1
    assert heard[-1]["batches_skipped"] == 3


def test_a_loss_that_keeps_leaping_is_given_up(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    run = Run(Rolling(tmp_path))
    spikes = Spikes(every=5, window=8, most=3)
    with pytest.raises(TrainingDiverged, match="leapt 4 times"):
        _trained(corpus, tiny, _poisoned(set(range(12, 60)), corpus, math.nan), run, spikes=spikes)
    latest = run.rolling.latest() if run.rolling else None
    assert latest is not None
    assert latest.notes["step"] == 10


def test_operations_are_those_that_torch_counts() -> None:
    blocks = (ShortConv(), Attention(heads=4, kv_heads=2, head_dim=16))
    architecture = Architecture(vocab_size=300, width=64, ffn_width=96, blocks=blocks)
    with torch.device("meta"):
        model = HybridLM(architecture)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 128, dtype=torch.int64)).sum().backward()
    full = 3 * 4 * 64 * 128  # torch counts every pair of positions; half of them and the diagonal are needed
    needed = 3 * 4 * 64 * 129 / 2
    conv = 3 * 2 * 3 * 64  # products of elements, which torch does not count
    ours = training_flops(architecture, 128) - conv - needed + full
    assert counter.get_total_flops() / 128 == pytest.approx(ours, rel=0.02)


def test_what_a_report_hears(corpus: Corpus, tiny: Architecture) -> None:
    heard: list[dict[str, float]] = []
    run = Run(report=lambda done, total, metrics: heard.append(metrics))
    model = _trained(corpus, tiny, run=run, evaluate_every=8)
    always = {"loss", "tokens_per_second", "learning_rate", "gradient_norm", "flops_utilisation", "memory_bytes"}
    assert all(always <= metrics.keys() for metrics in heard)
    assert [index + 1 for index, metrics in enumerate(heard) if "bits_per_byte" in metrics] == [8, 16, 24]
    assert heard[-1]["bits_per_byte"] == bits_per_byte(model, corpus, sequence=32, windows=64)
    assert 0 < heard[-1]["flops_utilisation"] < 1
