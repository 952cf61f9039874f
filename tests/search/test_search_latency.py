"""Latency predicted from blocks, on synthetic phones whose truth is known."""

import random
from functools import cache
from itertools import combinations
from statistics import median

import pytest
from synthetic import Synthetic, decode_ms, finished, spec_of

from device_agent.contracts import Figure, Profile
from search.blocks import BlockWork, blocks_of
from search.candidate import BlockTimes, Candidate
from search.driver import run
from search.estimate import predicted_decode
from search.foresight import Foresight
from search.latency import LatencyPredictor
from search.objectives import errors
from search.space import architecture_of, walk
from search.spec import SearchSpec
from search.study import Proposal
from trainer.architecture import Architecture

SPEC = spec_of(
    space={
        "width": (128, 192, 256, 320),
        "depth": (4, 6, 8, 10),
        "ffn_ratio": (1.0, 2.0, 3.0),
        "attention_share": (0.0, 0.25, 0.5),
        "kv_heads": (1, 2, 4),
    }
)
# Milliseconds per call and per million numbers read, by kind: a phone on which bytes are not what costs.
ODD = {"embedding": (0.01, 0), "conv": (0.02, 4.0), "attention": (0.3, 2.0), "ffn": (0.01, 0.7), "head": (0.05, 0.4)}


def odd_ms(block: BlockWork) -> float:
    call, million = ODD[block.kind]
    steps = -(-block.dimensions[-1] // 256)  # its kernels come in tiles: no straight line
    return call + million * sum(block.decode) / 1e6 + 0.004 * steps


def odd_total(architecture: Architecture) -> float:
    return 0.93 * sum(odd_ms(block) for block in blocks_of(architecture, SPEC))


def measured(number: int, architecture: Architecture, noise: random.Random) -> Candidate:
    times = [odd_ms(block) * noise.gauss(1, 0.05) for block in blocks_of(architecture, SPEC)]
    whole, prompt = odd_total(architecture) * noise.gauss(1, 0.01), 20.0
    decode, ttft = (Figure(value=v, low=v, high=v) for v in (whole, whole * prompt))
    profile = Profile(
        ttft_ms=ttft,
        prefill_tokens_per_second=decode,
        decode_ms=decode,
        decode_p95_ms=decode,
        load_ms=decode,
        peak_memory_bytes=1,
    )
    row = finished(SPEC, Proposal(number, {}, architecture), failed=False)
    blocks = BlockTimes(prefill_ms=tuple(t * prompt for t in times), decode_ms=tuple(times))
    return row.model_copy(update={"profiles": {"p1": profile}, "blocks": {"p1": blocks}})


def concordance(predicted: list[float], truth: list[float]) -> float:
    """Share of pairs that are in the right order."""
    pairs = list(combinations(range(len(truth)), 2))
    return sum((predicted[i] < predicted[j]) == (truth[i] < truth[j]) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(3))
def test_unseen_architectures_are_ranked_better_than_by_bytes(seed: int) -> None:
    draw = random.Random(seed)
    models = [architecture_of(params, SPEC) for params, _ in zip(walk(SPEC.space, seed), range(70), strict=False)]
    rows = [measured(i, a, draw) for i, a in enumerate(models[:10])]
    predictor = LatencyPredictor.of(SPEC, rows, "p1")
    assert predictor is not None
    unseen, truth = models[10:], [odd_total(a) for a in models[10:]]
    found = [predictor.predict(a) for a in unseen]
    ours = concordance([p.decode_ms for p in found], truth)
    theirs = concordance([predicted_decode(a, SPEC) for a in unseen], truth)
    assert 1 - ours < (1 - theirs) / 2, (ours, theirs)
    assert median(abs(p.decode_ms / t - 1) for p, t in zip(found, truth, strict=True)) < 0.05
    assert median(abs(p.ttft_ms / (20 * t) - 1) for p, t in zip(found, truth, strict=True)) < 0.05
    assert min(p.seen for p in found) < 0.5 < max(p.seen for p in found)


def test_one_measured_candidate_already_says_something_of_blocks_never_seen() -> None:
    first, other = (architecture_of(params, SPEC) for params, _ in zip(walk(SPEC.space, 1), range(2), strict=False))
    predictor = LatencyPredictor.of(SPEC, [measured(0, first, random.Random(0))], "p1")
    assert predictor is not None
    assert predictor.predict(first).seen == 1
    assert predictor.predict(first).decode_ms == pytest.approx(odd_total(first), rel=0.1)
    assert 0 < predictor.predict(other).decode_ms < 100


def test_without_times_of_blocks_nothing_is_claimed() -> None:
    row = measured(0, architecture_of(next(walk(SPEC.space, 0)), SPEC), random.Random(0))
    one = BlockTimes(prefill_ms=(1.0,), decode_ms=(1.0,))  # of a monolithic Program, say
    still = BlockTimes(prefill_ms=row.blocks["p1"].prefill_ms, decode_ms=(0.0,) * len(row.blocks["p1"].decode_ms))
    for blocks in ({}, {"p1": one}, {"p1": still}):
        without = row.model_copy(update={"blocks": blocks})
        assert LatencyPredictor.of(SPEC, [without], "p1") is None
        foresight = Foresight(SPEC, [without])
        assert foresight.cost(row.architecture) == predicted_decode(row.architecture, SPEC)
        assert not foresight.hopeless(row.architecture)
    assert LatencyPredictor.of(SPEC, [row], "p2") is None


@cache
def searched(block_times: bool, seed: int) -> tuple[SearchSpec, list[Candidate]]:
    spec = spec_of(
        effort={"candidates": 24, "batch": 4, "block_times": block_times}, budgets={"decode_ms": 0.95}, seed=seed
    )
    world = Synthetic()
    run(spec, world.world())
    return spec, list(world.candidates())


def test_what_was_expected_is_on_record_beside_what_was_measured() -> None:
    _, rows = searched(block_times=True, seed=0)
    assert rows[0].predicted == {}
    assert all(set(c.predicted) == {"p1"} for c in rows[1:])
    later = errors(rows[8:], "p1", "decode_ms")
    assert len(later) == 16
    assert max(map(abs, later)) < 0.02
    assert all(c.predicted == {} == c.blocks for c in searched(block_times=False, seed=0)[1])


def test_phone_time_goes_to_candidates_that_may_keep_the_budget() -> None:
    def kept(block_times: bool) -> int:
        return sum(c.feasible for seed in range(2) for c in searched(block_times, seed)[1])

    foreseen, blind = kept(block_times=True), kept(block_times=False)
    assert foreseen > blind + 1, (foreseen, blind)
    spec, rows = searched(block_times=True, seed=1)
    slow = [c for c in rows if decode_ms(c.architecture) > 0.95 * 1.1]
    assert Foresight(spec, rows).hopeless(slow[0].architecture)
    assert not any(Foresight(spec, rows).hopeless(c.architecture) for c in rows if c.feasible)
