"""The verdict: who wins, how surely, which budgets bind, and the words for it."""

import pytest
from synthetic import figure, row, spec_of

from device_agent.contracts import Blame, Fault, Figure
from search.candidate import Candidate
from search.finalists import finalists
from search.verdict import decide

BUDGETS = {"decode_ms": 10.0, "peak_memory_mb": 100.0}
GOOD = row(0, bits=2.0, decode=figure(8.0, 0.1), megabytes=90)
SLOW = row(1, bits=1.8, decode=figure(14.0, 0.1), megabytes=80)
SMALL = row(2, bits=2.5, decode=figure(4.0, 0.1), megabytes=20)
NARROW = row(3, bits=1.9, decode=figure(9.9, 0.5), megabytes=90)


def with_violations(*rows: Candidate, **budgets: float) -> list[Candidate]:
    from search.objectives import violations

    spec = spec_of(budgets=budgets)
    return [c.model_copy(update={"violations": violations(spec, c.profiles)}) for c in rows]


def test_the_best_quality_that_surely_keeps_every_budget_wins() -> None:
    rows = with_violations(GOOD, SLOW, SMALL, NARROW, **BUDGETS)
    verdict = decide(spec_of(budgets=BUDGETS), rows)
    assert verdict.winner == 0  # 3 is better, but keeps decode_ms with a probability of only 58 %
    assert verdict.front == (0, 2, 3)
    decode, memory = verdict.budgets
    assert (decode.budget, decode.binding, decode.excluded, decode.best_value) == ("decode_ms", True, 1, 4.0)
    assert decode.keeps_probability == pytest.approx(1.0)
    assert (memory.binding, memory.excluded, memory.winner_value) == (False, 0, 90.0)
    assert "Candidate 0 wins with 2.000 bits per byte, of 3 candidates that keep every budget" in verdict.why
    assert "Decode latency binds" in verdict.why
    assert "without it candidate 1 would win, with 1.800 bits per byte at 14.0 ms per token" in verdict.why
    assert "Peak memory does not bind: the winner takes 90.0 MB of 100 MB." in verdict.why


def test_if_none_is_sure_the_surest_wins_and_the_verdict_says_so() -> None:
    verdict = decide(spec_of(budgets=BUDGETS), with_violations(SLOW, NARROW, **BUDGETS))
    assert verdict.winner == 3
    assert "only 65%" in verdict.why
    assert "measure it again" in verdict.why


def test_across_phones_the_worst_counts() -> None:
    two = GOOD.model_copy(update={"profiles": GOOD.profiles | {"p2": SLOW.profiles["p1"]}})
    verdict = decide(spec_of(budgets=BUDGETS, phones=("p1", "p2")), with_violations(two, **BUDGETS))
    assert verdict.winner is None
    assert verdict.budgets[0].best_value == 14.0


def test_ties_go_to_the_smaller_and_then_to_the_earlier() -> None:
    rows = [GOOD.model_copy(update={"number": n}) for n in (5, 3)]
    assert decide(spec_of(), rows).winner == 3
    lean = GOOD.model_copy(update={"number": 9, "parameters": 1})
    assert decide(spec_of(), [*rows, lean]).winner == 9


def test_without_budgets_the_best_quality_wins() -> None:
    verdict = decide(spec_of(), [GOOD, SLOW, SMALL])
    assert (verdict.winner, verdict.budgets) == (1, ())
    assert "no budget was set" in verdict.why


def test_budgets_that_are_only_kept_apart_are_named_together() -> None:
    quick = row(0, bits=2.0, decode=figure(4.0, 0.1), megabytes=150)
    lean = row(1, bits=2.0, decode=figure(14.0, 0.1), megabytes=50)
    verdict = decide(spec_of(budgets=BUDGETS), with_violations(quick, lean, **BUDGETS))
    assert verdict.winner is None
    assert [r.binding for r in verdict.budgets] == [True, True]
    assert "not all together" in verdict.why
    assert "Candidate 1 comes nearest: decode latency 14.0 ms per token (40% over)" in verdict.why
    assert "raise decode_ms to 14.7" in verdict.why


def test_a_bound_that_is_out_of_reach_is_told_in_figures_that_people_read() -> None:
    bounds = {"decode_ms": 1e-6}
    verdict = decide(
        spec_of(budgets=bounds), with_violations(row(0, bits=2.0, decode=figure(4.0, 0.1), megabytes=1), **bounds)
    )
    assert "the decode latency of 1e-06 ms per token: the best seen is 4.00 ms per token, 4,000,000 times as much." in (
        verdict.why
    )
    assert "%" not in verdict.why


def again(candidate: Candidate, decode: Figure) -> Candidate:
    profile = candidate.profiles["p1"].model_copy(update={"decode_ms": decode})
    return candidate.model_copy(update={"confirmed": {"p1": profile}})


def crashed(candidate: Candidate) -> Candidate:
    fault = Fault(blame=Blame.PHONE, slug="runner-crashed", message="killed")
    return candidate.model_copy(update={"confirm_fault": fault})


@pytest.mark.parametrize(("most", "chosen"), [(0, ()), (1, (0,)), (2, (0, 2)), (16, (0, 2, 3))])
def test_finalists_are_the_sure_by_quality_and_then_the_surest(most: int, chosen: tuple[int, ...]) -> None:
    rows = with_violations(GOOD, SLOW, SMALL, NARROW, **BUDGETS)
    spec = spec_of(budgets=BUDGETS, effort={"finalists": most})
    assert finalists(spec, rows) == chosen
    race = [crashed(rows[0]), rows[1], again(rows[2], figure(20.0, 0.1)), rows[3]]
    assert finalists(spec, race) == chosen  # what the race finds does not change who is in it


def test_without_budgets_there_are_no_finalists() -> None:
    assert finalists(spec_of(), [GOOD, SLOW]) == ()


def test_finalists_are_judged_by_their_second_measurement_alone() -> None:
    slower = again(GOOD, figure(10.5, 0.1))
    surer = again(NARROW, figure(9.0, 0.5))
    rows = with_violations(slower, SLOW, SMALL, surer, **BUDGETS)
    verdict = decide(spec_of(budgets=BUDGETS), rows)
    assert verdict.winner == 3
    assert verdict.front == (0, 2, 3)  # the study's front is of first measurements
    decode = verdict.budgets[0]
    assert (decode.winner_value, decode.excluded) == (9.0, 2)
    assert decode.keeps_probability == pytest.approx(0.99996, abs=1e-4)
    assert "Measured again, 1 of 2 finalists keeps every budget." in verdict.why
    assert "of 2 candidates that keep every budget" in verdict.why


def test_if_no_finalist_is_sure_the_surest_of_them_wins() -> None:
    rows = with_violations(again(GOOD, figure(9.9, 0.5)), again(NARROW, figure(9.8, 0.5)), SMALL, **BUDGETS)
    verdict = decide(spec_of(budgets=BUDGETS), rows)
    assert verdict.winner == 3
    assert "it is the surest of the finalists" in verdict.why
    assert not any(report.binding and report.budget == "peak_memory_mb" for report in verdict.budgets)


def test_if_every_finalist_loses_the_others_are_judged_by_their_first_measurement() -> None:
    rows = with_violations(crashed(GOOD), again(NARROW, figure(11.0, 0.5)), SMALL, **BUDGETS)
    verdict = decide(spec_of(budgets=BUDGETS), rows)
    assert verdict.winner == 2
    assert (
        "Measured again, none of 2 finalists keeps every budget, candidate 0 failed with runner-crashed; "
        "candidate 2 was not measured again, so its first measurement alone speaks for it."
    ) in verdict.why
    assert "without it candidate 3 would win, with 1.900 bits per byte at 11.0 ms per token" in verdict.why


def test_a_winner_lost_to_the_race_leaves_advice_by_what_was_measured_last() -> None:
    verdict = decide(spec_of(budgets=BUDGETS), with_violations(SLOW, again(NARROW, figure(11.0, 0.5)), **BUDGETS))
    assert verdict.winner is None
    assert "Nobody keeps the decode latency of 10.0 ms per token: the best seen is 11.0 ms per token" in verdict.why
    assert "Candidate 3 comes nearest: decode latency 11.0 ms per token (10% over)." in verdict.why
    assert "raise decode_ms to 11.6" in verdict.why
    assert "none of 1 finalist keeps" in verdict.why
    alone = decide(spec_of(budgets=BUDGETS), with_violations(crashed(GOOD), **BUDGETS))
    assert (alone.winner, alone.budgets[0].best_value) == (None, None)
    assert "none of 1 candidate keeps every budget" in alone.why
    assert "candidate 0 failed with runner-crashed." in alone.why


def test_half_a_second_measurement_is_none() -> None:
    two = GOOD.model_copy(update={"profiles": GOOD.profiles | {"p2": GOOD.profiles["p1"]}})
    halfway = again(two, figure(20.0, 0.1))
    verdict = decide(spec_of(budgets=BUDGETS, phones=("p1", "p2")), with_violations(halfway, **BUDGETS))
    assert verdict.winner == 0
    assert "again" not in verdict.why


def test_an_empty_ledger_has_a_verdict() -> None:
    verdict = decide(spec_of(budgets=BUDGETS), [])
    assert verdict.winner is None
    assert verdict.budgets[0].best_value is None
