"""Scales, GPTQ, mixed precision and what of them is kept: judged by brute force where that is possible."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.calibrate import calibration, mean_squares
from trainer.checkpoint import Checkpoint, Quantised, seal
from trainer.data import Corpus
from trainer.distil import forward_kl
from trainer.errors import CheckpointError, Interrupted, QuantisationError
from trainer.fake_quantise import Rounder
from trainer.gptq import post_training, solve
from trainer.mixed import assign, possible, sensitivities
from trainer.model import HybridLM
from trainer.pipeline import run
from trainer.precision import EIGHT, EMBEDDING, FOUR, FULL, HEAD, W4A8, Precision, Scheme, matrices
from trainer.pretrain import Pretrain
from trainer.ptq import Ptq
from trainer.qat import Qat
from trainer.quantise import Packing, pack, quantise_weight, quantised
from trainer.rounding import Noise
from trainer.scales import found_scale, search_scale

G64 = Precision(bits=4, group_size=64)
SMALL = {"batch": 4, "sequence": 32}


def _weight(rows: int = 24, inputs: int = 128, seed: int = 0) -> torch.Tensor:
    """Heavy tails, as trained weights have them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, inputs, generator=generator) * torch.rand(rows, inputs, generator=generator).pow(3).exp()


def _correlated(inputs: int = 128, seed: int = 1) -> torch.Tensor:
    """Tokens [4096, in] whose channels are of different sizes and know of each other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.logspace(-1, 1, inputs)
    return torch.randn(4096, inputs, generator=generator) @ mixing / inputs**0.5


def _error(weight: torch.Tensor, rounded: torch.Tensor, x: torch.Tensor) -> float:
    return float(((weight - rounded) @ x.T).square().sum())


@pytest.mark.parametrize("precision", [FOUR, G64, EIGHT], ids=str)
def test_a_searched_scale_never_loses_to_the_largest_elements(precision: Precision) -> None:
    weight, h = _weight(), torch.logspace(-2, 2, 128)
    for importance in (None, h):
        weights = torch.ones(128) if importance is None else importance
        scale = search_scale(weight, precision, importance)
        assert torch.equal(scale, scale.bfloat16().float())
        plain, searched = (quantise_weight(weight, precision, s).dequantised() for s in (None, scale))
        groups = 128 // (precision.group_size or 128)
        errors = [((weight - w).square() * weights).view(24, groups, -1).sum(-1) for w in (plain, searched)]
        assert bool((errors[1] <= errors[0]).all())
        if precision.bits == 4:
            assert errors[1].sum() < 0.9 * errors[0].sum()


def test_a_scale_found_by_trying_every_factor_is_the_one_found() -> None:
    weight, grid = _weight(4, 32), (0.6, 0.8, 1.0)
    usual = quantise_weight(weight).scale
    tried = []
    for factor in grid:
        scale = (weight.abs().amax(1, keepdim=True) / 7.5 * factor).bfloat16().float()
        tried.append(((quantise_weight(weight, FOUR, scale).dequantised() - weight).square().sum(1), scale))
    best = torch.stack([error for error, _ in tried]).argmin(0)
    expected = torch.stack([scale for _, scale in tried])[best, torch.arange(4)]
    assert torch.equal(search_scale(weight, FOUR, grid=grid), expected)
    assert usual.shape == expected.shape


@pytest.mark.parametrize("precision", [FOUR, G64, EIGHT], ids=str)
def test_gptq_has_less_error_on_what_it_was_calibrated_on_and_on_more_of_it(precision: Precision) -> None:
    weight, x = _weight(), _correlated()
    nearest = quantise_weight(weight, precision)
    solved = solve(weight, (x[:2048].T @ x[:2048]).double(), precision)
    assert torch.equal(solved.scale, nearest.scale)
    assert int(solved.q.min()) >= -(1 << (precision.bits - 1))
    assert int(solved.q.max()) < 1 << (precision.bits - 1)
    for part in (x[:2048], x[2048:]):
        assert _error(weight, solved.dequantised(), part) < 0.7 * _error(weight, nearest.dequantised(), part)


def test_gptq_of_inputs_that_know_nothing_of_each_other_is_rounding_to_nearest() -> None:
    weight = _weight()
    solved = solve(weight, torch.diag(torch.logspace(-2, 2, 128)).double(), FOUR)
    assert torch.equal(solved.q, quantise_weight(weight).q)


def test_gptq_is_the_papers_recursion_column_by_column() -> None:
    """The oracle: rows apart, no blocks, the inverse recomputed by elimination (paper, eq. 2 and 3)."""
    weight, x = _weight(3, 32), _correlated(32)
    hessian = (x.T @ x).double()
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(32, dtype=torch.double)
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist()
    scale = quantise_weight(weight).scale.double()
    rest, q = weight.double().clone(), torch.zeros(3, 32)
    inverse = torch.linalg.inv(damped)
    for column in order:
        q[:, column] = (rest[:, column] / scale[:, 0]).round().clamp(-8, 7).float()
        error = (rest[:, column] - q[:, column] * scale[:, 0]) / inverse[column, column]
        rest -= error[:, None] * inverse[column]
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    assert torch.equal(solve(weight, hessian, FOUR).q.float(), q)


def test_gptq_survives_inputs_that_are_always_zero_and_too_few_tokens() -> None:
    weight = _weight()
    few = torch.randn(3, 128, generator=torch.Generator().manual_seed(2))
    few[:, 5] = 0
    for hessian in ((few.T @ few).double(), torch.zeros(128, 128, dtype=torch.double)):
        rounded = solve(weight, hessian, FOUR).dequantised()
        assert bool(rounded.isfinite().all())
        assert (rounded - weight).abs().max() < 2 * weight.abs().max()


def test_stochastic_rounding_of_the_forward_pass_is_unbiased_and_off_at_evaluation() -> None:
    weight = _weight(400, 32).clamp(-2, 2)
    weight[:, 0] = 2.0  # one scale for every row
    rounder = Rounder("it", FOUR, None, learn=False)
    nearest = rounder(weight)
    rounder.noise = Noise(1)
    mean = torch.zeros_like(weight)
    for step in range(200):
        rounder.noise.step = step
        mean += rounder(weight) / 200
    inside = weight.abs() < 1.8
    step_size = float(quantise_weight(weight).scale[0, 0])
    assert ((mean - weight)[inside].abs().max()) < 5 * step_size / 2 / 200**0.5
    assert abs(float((mean - weight)[inside].mean())) < 0.05 * step_size / 2
    assert (nearest - weight)[inside].abs().max() > 0.4 * step_size
    assert torch.equal(rounder.eval()(weight), nearest)


@pytest.fixture(scope="module")
def base(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small model that has learned something."""
    torch.set_num_threads(1)
    blocks = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=32))
    architecture = Architecture(vocab_size=300, width=64, ffn_width=96, blocks=blocks)
    stages = [Pretrain(tokens=20_000, learning_rate=2e-2, **SMALL)]
    return run(stages, architecture, corpus.directory, tmp_path_factory.mktemp("base"))[0]


def _loss(model: HybridLM, corpus: Corpus) -> float:
    from trainer.engine import bits_per_byte

    return bits_per_byte(model, corpus, sequence=32)


@torch.no_grad()
def _divergence(full: HybridLM, rounded: HybridLM, corpus: Corpus) -> float:
    """Mean KL on held-out text: the loss itself may fall by rounding's chance."""
    parts = list(corpus.held_out(size=16, sequence=32, windows=128))
    return float(torch.stack([forward_kl(rounded(p.inputs), full(p.inputs)) for p in parts]).mean())


def test_after_training_gptq_beats_rounding_to_nearest_with_either_scales(base: Checkpoint, corpus: Corpus) -> None:
    model = base.model()
    batches = calibration(corpus, windows=64, sequence=32)
    nearest, searched, solved = (
        _divergence(model, quantised(model, post_training(model, W4A8, batches, method=method, scales=scales)), corpus)
        for method, scales in (("nearest", "absmax"), ("nearest", "searched"), ("gptq", "searched"))
    )
    assert 0 < solved < min(nearest, searched)
    assert torch.equal(base.model().get_parameter(EMBEDDING), model.get_parameter(EMBEDDING))


def test_the_mean_squares_are_those_of_every_matrixs_inputs(base: Checkpoint, corpus: Corpus) -> None:
    model = base.model()
    found = mean_squares(model, calibration(corpus, windows=8, sequence=32))
    assert {role: h.shape[0] for role, h in found.items()} == {
        role: shape[1] for role, shape in matrices(model.architecture).items() if role != EMBEDDING
    }
    assert all(float(h.min()) > 0 for h in found.values())


def test_a_sensitivity_is_the_divergence_of_one_rounded_matrix(base: Checkpoint, corpus: Corpus) -> None:
    model, batches = base.model(), calibration(corpus, windows=8, sequence=32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    costs = sensitivities(model, batches, (FOUR, EIGHT, FULL))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(by[FULL] == pytest.approx(0, abs=1e-7) and by[EIGHT] < by[FOUR] for by in costs.values())
    for role in ("model.layers.1.feed_forward.w2.weight", EMBEDDING, HEAD):
        one = Scheme(weights=FULL, overrides={role: FOUR})
        scale = found_scale(role, model.get_parameter(EMBEDDING if role == HEAD else role), FOUR)
        other = quantised(model, pack(model, one.model_copy(update={"activations": False}), {role: scale}))
        found = []
        for batch in batches:
            known, seen = (m(batch.inputs, documents=batch.documents).log_softmax(-1) for m in (model, other))
            found.append(float((known.exp() * (known - seen)).sum(-1).mean().detach()))
        assert costs[role][FOUR] == pytest.approx(sum(found) / len(found), rel=1e-3, abs=3e-8)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_assignment_keeps_its_budget_and_is_best_up_to_one_step(data: st.DataObject) -> None:
    architecture = Architecture(vocab_size=32, width=128, ffn_width=128, blocks=(ShortConv(),))
    shapes = matrices(architecture)
    candidates = (Precision(bits=4, group_size=128), FOUR, EIGHT)
    cost = st.floats(0, 1, allow_nan=False)
    costs = {role: {p: data.draw(cost) for p in candidates} for role in shapes}

    sizes = {
        role: {p: Scheme(weights=p).bytes_of(role, shape).total for p in candidates} for role, shape in shapes.items()
    }
    least, most = (sum(pick(by.values()) for by in sizes.values()) for pick in (min, max))
    budget = data.draw(st.integers(least, most))
    chosen = assign(costs, W4A8, architecture, budget)
    assert chosen.bytes(architecture) <= budget
    cost_of_choice = sum(by[chosen.of(role)] for role, by in costs.items())
    best = min(
        sum(costs[role][p] for role, p in zip(shapes, choice, strict=True))
        for choice in itertools.product(candidates, repeat=len(shapes))
        if sum(sizes[role][p] for role, p in zip(shapes, choice, strict=True)) <= budget
    )
    largest_step = max(max(by.values()) - min(by.values()) for by in costs.values())
    assert best - 1e-9 <= cost_of_choice <= best + largest_step + 1e-9
    with pytest.raises(QuantisationError, match="too few"):
        assign(costs, W4A8, architecture, least - 1)


def test_what_no_candidate_divides_is_refused() -> None:
    architecture = Architecture(vocab_size=32, width=96, ffn_width=64, blocks=(ShortConv(),))
    with pytest.raises(QuantisationError, match=r"4g64 divides the 96 inputs of model\.embed"):
        possible(architecture, (G64,))
    assert possible(architecture, (G64, FOUR))[EMBEDDING] == [FOUR]


def test_bytes_are_counted_as_a_program_holds_them() -> None:
    scheme = Scheme(embedding=EIGHT, head=G64)
    assert scheme.bytes_of("model.layers.0.conv.in_proj.weight", (96, 128)) == (96 * 64, 96 * 4 * 2)
    assert scheme.bytes_of(EMBEDDING, (96, 128)) == (96 * 128, 96 * 4)
    assert scheme.bytes_of(HEAD, (96, 128)) == (96 * 64, 96 * 2 * 2)
    assert Scheme(weights=FULL).bytes_of(HEAD, (96, 128)).total == 4 * 96 * 128
    assert [str(Precision.parse(text)) for text in ("4", "4g64", " 8 ", "32")] == ["4g32", "4g64", "8", "32"]
    for bad in ("5", "8g32", "4g33", "", "4g0", "4g99999"):
        with pytest.raises(QuantisationError, match="no precision"):
            Precision.parse(bad)


def _stages() -> list[Qat | Ptq]:
    budget = {"byte_budget": 70_000, "candidates": (G64, FOUR, EIGHT), "calibration_windows": 8}
    common = {"masters": "bfloat16", "scales": "learned", **budget}
    return [Qat(tokens=1_280, stochastic_forward=True, **common, **SMALL)]


def test_a_stage_under_a_budget_carries_on_to_the_same_bits(base: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    """Learned scales, bfloat16 masters, both stochastic roundings, stopped anywhere, sensitivities too."""
    blocks = base.architecture
    stages = [_stages()[0].model_copy(update={"candidates": (FOUR, EIGHT)})]
    whole, (outcome,) = run(stages, blocks, corpus.directory, tmp_path / "whole", start=base)
    stops = 0
    while True:
        asked = iter([False] * (4 if stops else 7) + [True] * 30)
        try:
            parts, _ = run(
                stages, blocks, corpus.directory, tmp_path / "parts", start=base, should_stop=lambda a=asked: next(a)
            )
        except Interrupted:
            stops += 1
            if stops > 4:
                stages_done = run(stages, blocks, corpus.directory, tmp_path / "parts", start=base)
                parts = stages_done[0]
                break
            continue
        break
    assert stops >= 3
    assert parts.directory.name == whole.directory.name
    packing = whole.packing()
    assert packing is not None
    assert outcome.after["matrix_bytes"] == packing.scheme.bytes(blocks) <= 70_000
    assert {str(p) for p in packing.scheme.overrides.values()} == {"8"}
    assert _loss(quantised(whole.model(), packing), corpus) == pytest.approx(outcome.after["bits_per_byte"], rel=1e-6)


def test_integers_survive_the_disk_exactly(base: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    model = base.model()
    scheme = Scheme(embedding=EIGHT, head=FULL)
    packing = post_training(model, scheme, calibration(corpus, windows=8, sequence=32), method="gptq")
    sealed = seal(model, tmp_path, corpus.tokenizer, Quantised(packing, {"by": "gptq"}))
    assert sealed.directory != seal(model, tmp_path, corpus.tokenizer).directory
    assert sealed.directory != seal(model, tmp_path, corpus.tokenizer, Quantised(pack(model, scheme), {})).directory
    found = sealed.packing()
    assert found is not None
    assert found.scheme == scheme
    assert set(found.integers) == set(packing.integers)
    for role, integers in packing.integers.items():
        assert torch.equal(found.integers[role].q, integers.q)
        assert torch.equal(found.integers[role].scale, integers.scale)
    packed = (sealed.directory / "quantised.safetensors").stat().st_size
    assert packed < 1.1 * scheme.bytes(model.architecture)
    assert base.packing() is None


def test_a_damaged_or_foreign_packing_is_refused(base: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    model = base.model()
    other = HybridLM(Architecture(vocab_size=300, width=64, ffn_width=64, blocks=base.architecture.blocks))
    with pytest.raises(CheckpointError, match=r"w1\.weight is \[96, 64\], not \[64, 64\]"):
        quantised(other, pack(model))
    lacking = Packing(W4A8, {role: i for role, i in pack(model).integers.items() if role != HEAD})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        quantised(model, lacking)
    sealed = seal(model, tmp_path, corpus.tokenizer, Quantised(pack(model), {}))
    file = sealed.directory / "quantised.safetensors"
    whole = file.read_bytes()
    for damage in (b"", whole[:1000], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damage)
        with pytest.raises(CheckpointError, match="changed since"):
            sealed.packing()
    (sealed.directory / "sha256.json").unlink()
    file.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        sealed.packing()
