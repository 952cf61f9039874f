"""The driver in an in-memory world: it can be killed at every line, and whatever fails, the search goes on."""

from collections import Counter
from typing import Any

import pytest
from synthetic import Crash, Killed, Synthetic, Unplugged, bits_per_byte, decode_ms, spec_of

from device_agent.contracts import Blame, FulcrumError, Program
from search.candidate import Candidate, Phase, Verdict
from search.driver import PATIENCE, run
from search.errors import HostFault, NotLinkable, SearchCancelled, SearchStalled
from search.space import distinct
from search.spec import SearchSpec
from trainer.architecture import Architecture, Attention
from trainer.errors import CorpusError, TrainingDiverged

TIGHT = {"decode_ms": 0.9, "peak_memory_mb": 2.4}
SMALL: dict[str, Any] = {
    "effort": {"candidates": 6, "batch": 3},
    "phones": ("p1", "p2"),
    "budgets": TIGHT,
    "protocol": {"blocks": 1},
}
WIDE = {"decode_ms": 1.4, "peak_memory_mb": 2.4}
RACE = spec_of(effort={"candidates": 12, "batch": 4}, budgets=WIDE, phones=("p1", "p2"))


def crash_on_many_attentions(architecture: Architecture) -> Exception | None:
    attentions = sum(isinstance(b, Attention) for b in architecture.blocks)
    return Crash("the runner was killed: out of memory") if attentions > 2 else None


def test_a_search_ends_with_a_verdict_and_a_whole_ledger() -> None:
    spec, world = spec_of(effort={"candidates": 16, "batch": 4}, budgets=TIGHT, phones=("p1", "p2")), Synthetic()
    verdict = run(spec, world.world())
    assert sorted(world.rows) == list(range(16))
    assert len({c.architecture.hash for c in world.rows.values()}) == 16
    assert all(c.phase is Phase.DONE for c in world.rows.values())
    assert verdict.winner in verdict.front
    assert world.verdicts == [verdict]
    winner = world.rows[verdict.winner]
    assert winner.feasible
    assert winner.values is not None
    assert winner.values[0] == bits_per_byte(winner.architecture)
    assert winner.values[1] == pytest.approx(decode_ms(winner.architecture) * 1.3 * 1.01, rel=1e-3)
    spent = {"build": 0.1, "export": 2.0, "push": 0.5, "run": 1.0, "score": 3.0, "link": 0.25, "confirm": 1.5}
    assert winner.seconds == spent
    feasible = [c for c in world.rows.values() if c.feasible]
    assert min(bits_per_byte(c.architecture) for c in feasible) == winner.values[0]
    assert any(message.startswith("measuring candidate 3 on p2") for message in world.messages)


def test_each_candidate_takes_every_phase_in_order() -> None:
    world = Synthetic()
    run(spec_of(**SMALL), world.world())
    for number in world.rows:
        phases = [c.phase for c in world.history if c.number == number]
        assert list(dict.fromkeys(phases)) == [Phase.PROPOSED, Phase.EXPORTED, Phase.MEASURED, Phase.DONE]


def crash_again(architecture: Architecture) -> float | Exception:
    return 1.2 if any(isinstance(b, Attention) for b in architecture.blocks) else Crash("killed when it ran again")


@pytest.mark.parametrize(
    ("crash", "again", "effort"),
    [
        (lambda _: None, lambda _: 1.0, {"candidates": 4, "batch": 2}),
        (crash_on_many_attentions, crash_again, {"candidates": 6, "batch": 3, "block_times": False}),
    ],
)
def test_killed_at_every_port_call_the_ledger_ends_the_same(crash: Any, again: Any, effort: dict[str, Any]) -> None:
    spec = spec_of(**SMALL | {"effort": effort})
    whole = Synthetic(crash=crash, again=again, left=[])
    expected = run(spec, whole.world())
    assert sum(c.finalist for c in whole.rows.values()) >= 2
    assert any(c.confirm_fault for c in whole.rows.values()) == (again is crash_again)
    assert any(c.phase is Phase.FAILED for c in whole.rows.values()) == (crash is crash_on_many_attentions)
    assert any(c.predicted for c in whole.rows.values()) == effort.get("block_times", True)
    assert whole.left
    for world in whole.left:
        moment = world.calls
        assert run(spec, world.world()) == expected
        assert world.rows == whole.rows, f"killed at call {moment}"
        assert max(Counter(world.measured).values()) <= 2, "only what was under way is asked for twice"
        assert world.verdicts[-1] == expected


def test_killed_again_and_again_it_still_arrives() -> None:
    spec, whole, world = spec_of(**SMALL), Synthetic(), Synthetic()
    run(spec, whole.world())
    for _ in range(200):
        world.die_at = world.calls + 9
        try:
            run(spec, world.world())
            break
        except Killed:
            continue
    assert world.rows == whole.rows


def test_finalists_are_measured_again_on_every_phone_after_everybody_was_measured() -> None:
    world = Synthetic()
    verdict = run(RACE, world.world())
    feasible = sorted((c for c in world.rows.values() if c.feasible), key=lambda c: bits_per_byte(c.architecture))
    best = [c.number for c in feasible[:3]]
    assert len(feasible) > 3
    assert world.measured[:24] == [(n, phone, 0) for n in range(12) for phone in ("p1", "p2")]
    assert world.measured[24:] == [(n, phone, 1) for n in best for phone in ("p1", "p2")]
    assert [c.number for c in world.candidates() if c.confirmed] == sorted(best)
    assert f"measuring finalist {best[0]} again on p2" in world.messages
    for number in best:  # and in one file, as what ships is
        finalist = world.rows[number]
        assert finalist.linked not in (None, finalist.program)
        assert Program.model_validate_json(world.kept[finalist.linked or ""]).layout == "monolithic"
    assert all(c.linked is None for c in world.candidates() if c.number not in best)
    assert verdict.winner == best[0]
    assert "Measured again, 3 of 3 finalists keep every budget." in verdict.why


def changed_winner(second: float | Exception) -> tuple[Candidate, Candidate, Verdict]:
    """Who would have won, who wins, and the verdict when the race finds `second` of the first of the finalists."""
    expected = run(RACE, Synthetic().world()).winner
    assert expected is not None
    world = Synthetic()
    world.again = lambda architecture: second if architecture == world.rows[expected].architecture else 1.0
    verdict = run(RACE, world.world())
    assert verdict.winner not in (None, expected)
    return world.rows[expected], world.rows[verdict.winner or 0], verdict


def test_who_won_by_a_lucky_measurement_is_caught_by_the_second() -> None:
    lucky, winner, verdict = changed_winner(3.0)
    assert lucky.feasible
    assert lucky.values is not None
    assert lucky.values[1] == pytest.approx(decode_ms(lucky.architecture) * 1.3 * 1.01, rel=1e-3)
    assert lucky.confirmed["p2"].decode_ms.value == pytest.approx(3 * lucky.values[1], rel=1e-3)
    assert winner.confirmed
    assert "Measured again, 2 of 3 finalists keep every budget." in verdict.why
    decode = verdict.budgets[0]
    assert decode.winner_value == winner.confirmed["p2"].decode_ms.value
    assert decode.binding


def test_a_finalist_that_crashes_when_it_runs_again_loses_and_keeps_its_result() -> None:
    fallen, winner, verdict = changed_winner(Crash("killed"))
    assert (fallen.phase, fallen.fault, fallen.feasible, fallen.confirmed) == (Phase.DONE, None, True, {})
    assert fallen.confirm_fault is not None
    assert fallen.confirm_fault.slug == "runner-crashed"
    assert winner.confirmed
    assert f"2 of 3 finalists keep every budget, candidate {fallen.number} failed with runner-crashed." in verdict.why


def test_a_finalist_that_cannot_be_linked_loses_and_another_wins() -> None:
    expected = run(RACE, Synthetic().world()).winner
    world = Synthetic()
    world.refuse_link = lambda a: (
        NotLinkable("two blocks do not fit") if a == world.rows[expected or 0].architecture else None
    )
    verdict = run(RACE, world.world())
    fallen = world.rows[expected or 0]
    assert fallen.confirm_fault is not None
    assert (fallen.confirm_fault.slug, fallen.linked, fallen.confirmed) == ("not-linkable", None, {})
    assert verdict.winner not in (None, expected)


def test_a_fault_of_the_world_stops_the_race_where_it_can_go_on() -> None:
    whole, world = Synthetic(), Synthetic(again=lambda _: Unplugged("no agent holds p1"))
    expected = run(RACE, whole.world())
    with pytest.raises(Unplugged):
        run(RACE, world.world())
    assert not any(c.finalist for c in world.rows.values())
    assert not world.verdicts
    world.again = lambda _: 1.0
    assert run(RACE, world.world()) == expected
    assert world.rows == whole.rows


@pytest.mark.parametrize("changes", [{"budgets": {}}, {"effort": {"candidates": 6, "batch": 3, "finalists": 0}}])
def test_without_a_budget_or_with_no_finalists_nobody_is_measured_again(changes: dict[str, Any]) -> None:
    world = Synthetic()
    verdict = run(spec_of(**SMALL | changes), world.world())
    assert {session for _, _, session in world.measured} == {0}
    assert "again" not in verdict.why


def test_a_score_is_trained_once_per_candidate() -> None:
    world = Synthetic()
    run(spec_of(**SMALL), world.world())
    assert set(Counter(world.scored).values()) == {1}


def test_a_crash_on_the_phone_is_a_result_that_the_study_learns_from() -> None:
    spec = spec_of(effort={"candidates": 16, "batch": 4})
    world = Synthetic(crash=crash_on_many_attentions)
    verdict = run(spec, world.world())
    failed = [c for c in world.rows.values() if c.phase is Phase.FAILED]
    done = [c for c in world.rows.values() if c.phase is Phase.DONE]
    assert failed
    assert len(done) + len(failed) == 16
    assert verdict.winner is not None
    assert f"{len(failed)} of 16 tried failed" in verdict.why
    for candidate in failed:
        assert candidate.fault is not None
        assert candidate.fault.slug == "runner-crashed"
        earlier = [c for c in done if c.number // 4 <= candidate.number // 4]
        assert candidate.values is not None
        for i, value in enumerate(candidate.values):
            assert value > max(c.values[i] for c in earlier if c.values)


@pytest.mark.parametrize("port", ["refuse_export", "refuse_score"])
def test_our_own_faults_fail_the_candidate_alone(port: str) -> None:
    def refuse(architecture: Architecture) -> Exception | None:
        return RuntimeError("unsupported node") if architecture.depth == 8 else None

    world = Synthetic(**{port: refuse})
    run(spec_of(effort={"candidates": 12, "batch": 4}), world.world())
    failed = {c.architecture.depth for c in world.rows.values() if c.phase is Phase.FAILED}
    assert failed == {8}
    fault = next(c.fault for c in world.rows.values() if c.fault)
    assert (fault.blame, fault.slug) == (Blame.US, "internal")
    assert fault.message == "RuntimeError: unsupported node"


def test_a_diverged_training_fails_its_candidate_and_keeps_what_was_measured() -> None:
    def diverge(architecture: Architecture) -> Exception | None:
        return TrainingDiverged("loss is nan") if architecture.width == 256 else None

    world = Synthetic(refuse_score=diverge)
    run(spec_of(effort={"candidates": 12, "batch": 4}), world.world())
    failed = next(c for c in world.rows.values() if c.phase is Phase.FAILED)
    assert failed.fault is not None
    assert failed.fault.slug == "training-diverged"
    assert failed.values is not None
    assert failed.values[1] == pytest.approx(decode_ms(failed.architecture) * 1.01, rel=1e-3)


@pytest.mark.parametrize(
    ("port", "error", "raised"),
    [
        ("crash", Unplugged("no agent holds p1"), Unplugged),
        ("crash", LookupError("the queue's database went away"), LookupError),
        ("refuse_export", OSError("no space left on device"), HostFault),
        ("refuse_score", CorpusError("the corpus is empty"), FulcrumError),
    ],
)
def test_a_fault_of_the_world_stops_the_search_where_it_can_go_on(port: str, error: Exception, raised: type) -> None:
    spec, whole = spec_of(**SMALL), Synthetic()
    expected = run(spec, whole.world())
    world = Synthetic(**{port: lambda _: error})
    with pytest.raises(raised):
        run(spec, world.world())
    assert not world.verdicts
    assert all(c.phase is not Phase.FAILED for c in world.rows.values())
    setattr(world, port, lambda _: None)
    assert run(spec, world.world()) == expected
    assert world.rows == whole.rows


def test_one_lost_worker_does_not_lose_its_neighbours_work() -> None:
    world = Synthetic()
    world.refuse_export = lambda _: OSError("killed") if len(world.by_program) == 2 else None
    with pytest.raises(HostFault):
        run(spec_of(**SMALL), world.world())
    assert [c.phase for c in world.candidates()] == [Phase.EXPORTED, Phase.PROPOSED, Phase.EXPORTED]


def test_failing_in_one_way_again_and_again_ends_the_search() -> None:
    world = Synthetic(crash=lambda _: Crash("cannot execute binary file"))
    with pytest.raises(SearchStalled, match=f"{PATIENCE} candidates in a row failed with runner-crashed") as stalled:
        run(spec_of(effort={"candidates": 40, "batch": 4}), world.world())
    assert stalled.value.blame is Blame.PHONE
    assert "cannot execute binary file" in stalled.value.message
    assert len(world.rows) == PATIENCE


def test_a_cancelled_search_stops_between_steps() -> None:
    world = Synthetic()
    world.refuse_score = lambda _: setattr(world, "stop", True)
    with pytest.raises(SearchCancelled):
        run(spec_of(**SMALL), world.world())
    assert sorted(world.rows) == [0, 1, 2]
    assert all(c.phase is Phase.DONE for c in world.rows.values())


def test_nothing_feasible_is_a_verdict_without_a_winner() -> None:
    world = Synthetic()
    verdict = run(spec_of(budgets={"decode_ms": 0.01, "ttft_ms": 1e6}), world.world())
    assert (verdict.winner, verdict.front) == (None, ())
    assert "Nobody keeps the decode latency of 0.01 ms per token" in verdict.why
    assert "raise decode_ms to" in verdict.why
    assert "ttft_ms" not in verdict.why


def test_everything_failing_in_a_short_search_is_a_verdict_too() -> None:
    world = Synthetic(crash=lambda _: Crash("killed"))
    verdict = run(spec_of(effort={"candidates": 4}), world.world())
    assert verdict.winner is None
    assert "no candidate was measured" in verdict.why
    assert all(c.values == (8.0, 1e4, 1e5) for c in world.rows.values())


def test_an_exhausted_space_ends_early_and_stays_ended() -> None:
    space = {"width": (128,), "depth": (2, 4), "ffn_ratio": (2.0,), "attention_share": (0.0, 0.5)}
    spec = spec_of(space=space, effort={"candidates": 20})
    world = Synthetic()
    verdict = run(spec, world.world())
    assert len(world.rows) == distinct(spec.space) < spec.effort.candidates
    assert run(spec, world.world()) == verdict
    assert len(world.rows) == distinct(spec.space)


def test_what_cannot_fit_is_never_proposed() -> None:
    spec: SearchSpec = spec_of(budgets={"peak_memory_mb": 1.0})
    world = Synthetic()
    run(spec, world.world())
    assert {c.architecture.width for c in world.rows.values()} == {128, 192}


@pytest.mark.parametrize("objectives", [("quality",), ("decode", "quality"), ("memory", "decode")])
def test_any_objectives_in_any_order(objectives: tuple[str, ...]) -> None:
    world = Synthetic()
    verdict = run(spec_of(objectives=objectives), world.world())
    assert verdict.winner is not None
    for candidate in world.rows.values():
        assert candidate.values is not None
        assert len(candidate.values) == len(objectives)
