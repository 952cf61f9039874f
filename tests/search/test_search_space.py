"""The space: canonical forms and Architectures are one to one; free checks are true lower bounds."""

import itertools
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import memory_bytes, spec_of

from search.estimate import floor_bytes
from search.space import (
    architecture_of,
    attention_patterns,
    canonical,
    cheapest_violation,
    choices,
    distinct,
    key,
    propose,
    unseen,
    walk,
)
from search.spec import SearchSpec
from search.warm import warm_start
from trainer.architecture import Attention

some = st.sampled_from


@st.composite
def specs(draw: Any) -> SearchSpec:
    def listed(*values: Any) -> tuple[Any, ...]:
        return tuple(draw(st.lists(some(values), min_size=1, max_size=3)))

    space = {
        "operators": draw(some([("conv",), ("attention",), ("conv", "attention"), ("attention", "conv", "conv")])),
        "width": listed(64, 96, 128, 192),
        "depth": listed(1, 2, 3, 5, 6),
        "ffn_ratio": listed(0.1, 1.0, 1.1, 2.5),
        "attention_share": listed(0.0, 0.1, 0.34, 0.5, 1.0),
        "placement": listed("early", "uniform", "late"),
        "kv_heads": listed(1, 2, 3, 4, 8),
        "kernel": listed(2, 3, 5),
    }
    return spec_of(space=space, seed=draw(st.integers(0, 99)))


def every(spec: SearchSpec) -> list[dict[str, int]]:
    sizes = choices(spec.space)
    return [dict(zip(sizes, values, strict=True)) for values in itertools.product(*(range(n) for n in sizes.values()))]


@settings(max_examples=40, deadline=None)
@given(specs())
def test_canonical_forms_are_the_architectures(spec: SearchSpec) -> None:
    representative: dict[str, dict[str, int]] = {}
    for raw in every(spec):
        params = canonical(raw, spec.space)
        assert canonical(params, spec.space) == params
        name = architecture_of(raw, spec).hash
        assert name == architecture_of(params, spec).hash
        assert representative.setdefault(name, params) == params
    assert len({key(p) for p in representative.values()}) == len(representative) == distinct(spec.space)
    walked = [key(p) for p in walk(spec.space, spec.seed)]
    assert len(walked) == len(representative)
    assert set(walked) == {key(p) for p in representative.values()}


@settings(max_examples=40, deadline=None)
@given(specs(), st.integers(0, 10))
def test_a_trial_proposes_the_canonical_inverse(spec: SearchSpec, seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    params, architecture = propose(study.ask(), spec)
    assert params == canonical(params, spec.space)
    assert architecture_of(params, spec) == architecture
    operators = {block.operator for block in architecture.blocks}
    assert operators <= set(spec.space.operators)


@settings(max_examples=40, deadline=None)
@given(specs())
def test_the_warm_start_is_distinct_canonical_and_within_half_the_effort(spec: SearchSpec) -> None:
    warm = warm_start(spec)
    assert 1 <= len(warm) <= 6
    assert all(canonical(params, spec.space) == params for params in warm)
    assert len({key(params) for params in warm}) == len(warm)


@settings(max_examples=30, deadline=None)
@given(specs(), st.floats(0.5, 3.0))
def test_the_free_check_agrees_with_looking_at_every_architecture(spec: SearchSpec, factor: float) -> None:
    smallest = min(floor_bytes(architecture_of(raw, spec), spec) for raw in every(spec))
    bounded = spec.model_copy(update={"budgets": spec.budgets.model_copy(update={"peak_memory_mb": factor / 10})})
    assert (cheapest_violation(bounded) is not None) == (smallest > factor * 1e5)


def test_the_free_check_says_what_to_change() -> None:
    message = cheapest_violation(spec_of(budgets={"peak_memory_mb": 0.05}))
    assert message is not None
    assert "peak_memory_mb = 0.05" in message
    assert "Raise peak_memory_mb above" in message
    assert "vocab_size" in message
    assert cheapest_violation(spec_of(budgets={"decode_ms": 1e-9})) is None


def test_the_free_check_counts_what_lfm2_must_hold() -> None:
    """LFM2-350M at 4.5 bits: 354.5 M weights take 199 MB (reference/executorch.md, section 2), state comes on top."""
    from trainer.architecture import LFM2_350M

    assert 195e6 < floor_bytes(LFM2_350M, spec_of()) < 215e6


def test_placements_spread_evenly_and_never_collide() -> None:
    for depth in range(1, 40):
        for share in (0.1, 0.25, 0.375, 0.5, 0.8, 1.0):
            patterns = attention_patterns((share,), ("early", "uniform", "late"), depth)
            for at in patterns:
                assert len(set(at)) == len(at) == int(share * depth + 0.5)
                assert all(0 <= i < depth for i in at)
            early, uniform, late = (sum(at) for at in patterns)
            assert early <= uniform <= late
    assert attention_patterns((0.375,), ("uniform",), 16) == ((1, 4, 6, 9, 12, 14),)


def test_kv_heads_are_lowered_to_a_divisor_of_the_heads() -> None:
    spec = spec_of(space={"width": (192,), "attention_share": (1.0,), "kv_heads": (4, 5)})
    params = dict.fromkeys(choices(spec.space), 0)
    block = architecture_of(params, spec).blocks[0]
    assert isinstance(block, Attention)
    assert (block.heads, block.kv_heads) == (6, 3)


def test_unseen_skips_what_was_seen_and_what_cannot_fit() -> None:
    spec = spec_of(space={"width": (64, 512), "depth": (1, 2), "attention_share": (0.0,), "ffn_ratio": (1.0,)})
    seen: set[tuple[int, ...]] = set()
    while (params := unseen(spec, seen, 3)) is not None:
        seen.add(key(params))
    assert len(seen) == distinct(spec.space) == 4
    tight = spec.model_copy(update={"budgets": spec.budgets.model_copy(update={"peak_memory_mb": 0.2})})
    assert unseen(tight, {key(p) for p in walk(spec.space, 0) if p["width"] == 0}, 3) is None


def test_a_spec_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="operators"):
        spec_of(space={"operators": ("mamba",)})
    with pytest.raises(ValueError, match="multiple of head_dim"):
        spec_of(space={"width": (96,), "head_dim": 64})


def test_the_synthetic_phone_never_goes_below_the_floor() -> None:
    spec = spec_of()
    for params in walk(spec.space, 0):
        architecture = architecture_of(params, spec)
        assert memory_bytes(architecture) > floor_bytes(architecture, spec)
