"""A study rebuilt from the ledger is the study that died; what it is told is what Optuna holds."""

from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import Synthetic, crash_rows, finished, spec_of

from search.candidate import Candidate, Phase
from search.driver import run
from search.errors import LedgerMismatch, MirrorUnreachable
from search.mirror import Mirror
from search.study import RAN, SearchStudy
from search.warm import warm_start


def advance(study: SearchStudy, ledger: list[Candidate], batch: int) -> None:
    """One batch: ask for all, then tell all; every fifth fails."""
    spec = spec_of()
    asked = [study.ask() for _ in range(batch)]
    for proposal in asked:
        assert proposal is not None
        ledger.append(finished(spec, proposal, failed=proposal.number % 5 == 4))
        study.tell(ledger[-1])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 4), st.integers(0, 3))
def test_rebuilt_equals_continued(batches: int, pending: int) -> None:
    spec = spec_of()
    living, ledger = SearchStudy(spec, []), list[Candidate]()
    for _ in range(batches):
        advance(living, ledger, 4)
    for _ in range(pending):
        proposal = living.ask()
        assert proposal is not None
        ledger.append(finished(spec, proposal, failed=False).model_copy(update={"values": None, "phase": "proposed"}))
    rebuilt = SearchStudy(spec, reversed(ledger))
    for _ in range(6):
        assert rebuilt.ask() == living.ask()


def test_seeds_differ_and_repeat() -> None:
    def params(seed: int) -> list[dict[str, int]]:
        spec, world = spec_of(seed=seed, effort={"candidates": 16, "batch": 8}), Synthetic()
        run(spec, world.world())
        return [dict(c.params) for c in world.candidates()]  # type: ignore[arg-type]

    assert params(1) == params(1)
    assert params(1) != params(2)


def test_the_warm_start_comes_first_and_spans_the_front() -> None:
    spec = spec_of(effort={"candidates": 16})
    study = SearchStudy(spec, [])
    warm = warm_start(spec)
    asked = [study.ask() for _ in warm]
    assert [p.params for p in asked if p] == warm
    sizes = [p.architecture.parameters for p in asked[:4] if p]
    assert max(sizes) > 3 * min(sizes)
    assert {b.operator for p in asked[:4] if p for b in p.architecture.blocks} == {"conv", "attention"}


def test_a_failed_candidate_is_complete_and_infeasible_for_optuna() -> None:
    spec = spec_of(budgets={"decode_ms": 0.9})
    rows = crash_rows(spec)
    trials = SearchStudy(spec, rows).trials()
    assert [t.state for t in trials] == [optuna.trial.TrialState.COMPLETE] * len(rows)
    for trial, candidate in zip(trials, rows, strict=True):
        assert trial.values == list(candidate.values or ())
        assert (trial.constraints[RAN] > 0) == (candidate.phase is Phase.FAILED)
        if candidate.phase is Phase.DONE:
            assert trial.constraints["decode_ms"] == candidate.violations["decode_ms"]
            assert all(c <= 0 for c in trial.constraints.values()) == candidate.feasible


def test_a_crash_ranks_below_every_budget_that_was_missed() -> None:
    spec = spec_of(budgets={"decode_ms": 1e-3})
    trials = SearchStudy(spec, rows := crash_rows(spec)).trials()
    excess = {phase: [] for phase in Phase}
    for trial, candidate in zip(trials, rows, strict=True):
        excess[candidate.phase].append(sum(max(0.0, c) for c in trial.constraints.values()))
    assert min(excess[Phase.FAILED]) > max(excess[Phase.DONE]) > 100


def test_a_ledger_with_a_gap_is_refused() -> None:
    rows = crash_rows(spec_of())
    with pytest.raises(LedgerMismatch, match="gap"):
        SearchStudy(spec_of(), [rows[0], rows[2]])


def test_a_mirror_holds_each_candidate_once_however_often_it_is_told(tmp_path: Path) -> None:
    spec, world = spec_of(effort={"candidates": 8, "batch": 4}, budgets={"decode_ms": 0.9}), Synthetic()
    url = f"sqlite:///{tmp_path}/optuna.db"
    for _ in range(2):
        run(spec, world.world(), Mirror(optuna.storages.get_storage(url), "demo"))
    study = optuna.load_study(study_name="demo", storage=url)
    assert [t.user_attrs["fulcrum_candidate"] for t in study.trials] == list(range(8))
    assert study.metric_names == ["quality", "decode", "memory"]
    assert {t.user_attrs["feasible"] for t in study.trials} == {
        all(c <= 0 for c in t.constraints.values()) for t in study.trials
    }


def test_a_mirror_that_fails_says_so(tmp_path: Path) -> None:
    storage = optuna.storages.get_storage(f"sqlite:///{tmp_path}/optuna.db")
    (tmp_path / "optuna.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(MirrorUnreachable) as raised:
        Mirror(storage, "demo").update(spec_of(), [])
    assert raised.value.advice
