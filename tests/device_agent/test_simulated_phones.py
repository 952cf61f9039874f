"""The bench on simulated phones whose truth it does not know; `bench_measuring.py` has the long tables.

Seeded: the shares are the same in every run, and the bounds leave room only for what a change of the bench may do.
"""

from pathlib import Path
from statistics import fmean

import pytest
from bench_examples import sha256
from bench_measuring import (
    TRUTH,
    UNGATED,
    caught,
    coverage,
    fitted,
    measure,
    ranked_apart,
    ranked_together,
)
from simulated_phone import BUSY, DRIFTING, HOT, STEADY, THROTTLING, bench, candidate, job

from device_agent.bench import CannotCompare, ProtocolTooLong
from device_agent.contracts import Comparison, MeasureJob, Measurement, Profile, Protocol

QUICK = Protocol.preset("quick")
STANDARD = fitted(Protocol.preset("standard"))


def test_the_interval_holds_the_truth_as_often_as_it_says(tmp_path: Path) -> None:
    found = coverage([measure(tmp_path, STEADY, QUICK, seed) for seed in range(120)])
    assert 0.90 <= found.students <= 0.99
    assert found.bootstraps < 0.85  # why the interval is not the bootstrap's
    assert found.error < 0.02
    assert found.minutes < 0.5


def test_throttled_blocks_are_caught(tmp_path: Path) -> None:
    seen = [measure(tmp_path, THROTTLING, QUICK, seed) for seed in range(15)]
    found = caught(seen)
    assert found.slowed >= 20
    assert found.caught == found.slowed
    assert all(Profile.of(one.measurement).flags for one in seen)


def test_disturbed_blocks_are_run_again_at_most_twice(tmp_path: Path) -> None:
    seen = [measure(tmp_path, BUSY, STANDARD, seed) for seed in range(6)]
    rejected = [block for one in seen for block in one.measurement.rejected]
    assert rejected
    assert all(block.breaches for block in rejected)
    assert all(len(one.measurement.blocks) == 5 for one in seen)
    assert all(len(one.measurement.rejected) <= 10 for one in seen)
    found = caught(seen)
    assert found.caught >= 0.8 * found.slowed
    assert found.wrongly <= 0.05 * found.fine


def test_a_gate_keeps_a_hot_phone_from_being_measured(tmp_path: Path) -> None:
    gated, plain = measure(tmp_path, HOT, QUICK, 1), measure(tmp_path, HOT, UNGATED, 1)
    assert abs(gated.figure.value / TRUTH - 1) < 0.05
    assert plain.figure.value / TRUTH > 1.5
    first = gated.measurement.blocks[0].gate
    assert first is not None
    assert first.waited_seconds > 30
    assert not first.timed_out


def test_quick_ranks_two_candidates_that_are_5_percent_apart(tmp_path: Path) -> None:
    apart = ranked_apart(tmp_path, STEADY, QUICK, 1.05, range(40))
    assert apart.right >= 0.95
    assert apart.minutes < 1
    together = ranked_together(tmp_path, DRIFTING, QUICK, 1.05, range(40))
    assert together.wrong == 0
    assert together.right >= 0.4  # three pairs are few: it says nothing rather than something wrong
    assert together.held >= 0.85


def test_equals_are_seldom_told_apart(tmp_path: Path) -> None:
    same = ranked_together(tmp_path, STEADY, QUICK, 1.0, range(60))
    assert same.unsaid >= 0.93


def test_a_comparison_has_both_measurements_and_their_order(tmp_path: Path) -> None:
    names = {b"one": 1.0, b"two": 1.2}
    made = bench(tmp_path, STEADY, 3, names)
    found = made.compare(job(b"one", QUICK), job(b"two", QUICK), {sha256(name): Path() for name in names})
    assert found.order == "ABBAAB"
    assert (len(found.first.blocks), len(found.second.blocks)) == (3, 3)
    starts = sorted((b.after.taken_at, one) for one in "AB" for b in _of(found, one).blocks if b.after)
    assert "".join(one for _, one in starts) == "ABBAAB"
    assert found.decode.claimed
    assert found.decode.value == pytest.approx(1.2, rel=0.1)
    assert "decode: the second is" in found.verdict
    assert "slower" in found.verdict
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def _of(comparison: Comparison, letter: str) -> Measurement:
    return comparison.first if letter == "A" else comparison.second


def test_what_differs_in_its_protocol_is_not_compared(tmp_path: Path) -> None:
    made = bench(tmp_path, STEADY, 1)
    with pytest.raises(CannotCompare):
        made.compare(job(b"one", QUICK), job(b"two", Protocol(settings=("stay-awake",))), {})


def test_a_protocol_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    made = bench(tmp_path, STEADY, 1)
    small = MeasureJob(program=candidate(b"one", depth=64), protocol=QUICK)
    with pytest.raises(ProtocolTooLong, match="160 positions"):
        made.run(small, {sha256(b"one"): Path()})


def test_sustained_decoding_shows_the_minutes(tmp_path: Path) -> None:
    protocol = QUICK.model_copy(update={"sustained_minutes": 4})
    seen = measure(tmp_path, THROTTLING, protocol, 2)
    minutes = Profile.of(seen.measurement).sustained
    assert len(minutes) == 4
    assert minutes[-1].decode_ms > 1.5 * TRUTH
    assert minutes[-1].lowest_cap == pytest.approx(0.57)
    assert fmean(minute.tokens for minute in minutes) > 500
    assert (minutes[-1].skin_celsius or 0) > 40


def test_pinning_and_depths_are_recorded(tmp_path: Path) -> None:
    protocol = Protocol.model_validate(
        {"cores": "big", "threads": None, "prefill_lengths": [512], "decode_depths": [1024, 100_000]}
    )
    result = measure(tmp_path, STEADY, protocol, 1).measurement
    assert result.placement is not None
    assert (result.placement.mask, result.placement.cores, result.placement.threads) == ("f0", (4, 5, 6, 7), 4)
    assert {block.cpus_allowed for block in result.blocks} == {"f0"}
    profile = Profile.of(result)
    assert [further.workload.label for further in profile.further] == ["prefill 512", "decode 32 at depth 1024"]
    decode = profile.further[1].decode_ms
    assert decode is not None
    assert decode.value > profile.decode_ms.value
    assert [workload.prefill_tokens for workload in result.left_out] == [100_000]
    assert profile.flags == ()
