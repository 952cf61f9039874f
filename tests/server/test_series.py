"""Metrics of stages: which points stay, and what is left of them when a worker is killed; on both databases."""

import csv
import io
import math
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_examples import NOW, TurnedClock, candidate, report, spec

from server.api.views import CorpusFile, CorpusSpec, PhoneRegistration, StageMetrics
from server.cli.metrics import NoSuchStage, as_csv, chosen, sparkline
from server.errors import OwnershipLost
from server.ledger import RunLedger, SearchLedger
from server.runs import MetricPoint, RunSpec, StageRecord, WorkState
from server.series import LIMIT, Pace, thinned
from server.services import Services
from server.tables import MetricRow
from server.worker import tensorboard
from server.worker.telling import Telling
from trainer.stage import Outcome

USUAL, SELDOM = frozenset({"loss"}), frozenset({"loss", "bits_per_byte"})


@given(
    st.dictionaries(st.integers(0, 10**6), st.sampled_from((USUAL, SELDOM)), max_size=120),
    st.integers(4, 60),
)
def test_thinning_keeps_the_ends_of_every_figure_and_spreads_the_rest(
    points: dict[int, frozenset[str]], limit: int
) -> None:
    kept = thinned(points, limit)
    assert kept <= points.keys()
    assert len(kept) <= limit
    assert kept == points.keys() or len(points) > limit
    for names in (USUAL, SELDOM):
        of = [tokens for tokens in sorted(points) if points[tokens] == names]
        left = [tokens for tokens in sorted(kept) if points[tokens] == names]
        if len(of) > 1:
            assert (left[0], left[-1]) == (of[0], of[-1])


def test_thinning_again_and_again_leaves_no_part_of_the_training_bare() -> None:
    points: dict[int, frozenset[str]] = {}
    for step in range(1, 20_001):
        points[step] = SELDOM if step % 500 == 0 else USUAL
        if len(points) > 100:
            points = {tokens: points[tokens] for tokens in thinned(points, 50)}
    left = sorted(points)
    assert (left[0], left[-1]) == (1, 20_000)
    assert max(b - a for a, b in pairwise(left)) < 20_000 / 15
    assert sum(names == SELDOM for names in points.values()) >= 10


def test_what_comes_seldom_is_not_kept_out_by_what_comes_often() -> None:
    now = [0.0]
    pace = Pace(1.0, lambda: now[0])
    story = [(0.0, USUAL, True), (0.5, USUAL, False), (0.5, SELDOM, True), (0.6, SELDOM, False), (0.7, USUAL, False)]
    story += [(0.8, SELDOM, True), (0.81, USUAL, False), (0.82, SELDOM, False), (1.0, USUAL, True)]
    for now[0], names, noted in story:
        assert pace.due(names) == noted, now


@pytest.fixture
def run(services: Services) -> str:
    """A run that the worker named "first" holds."""
    services.fleet.report("bench", report("one"))
    services.fleet.register(PhoneRegistration(serial="one"))
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    corpus, _ = services.corpora.register(CorpusSpec(name="c", files=(file,)))
    search = services.searches.submit(spec(corpus.id)).id
    services.claims.claim_search("first")
    SearchLedger(services.database, search, "first").remember(candidate(4, 1.0))
    made = services.runbook.submit(RunSpec(search=search, candidate=4)).id
    services.claims.claim_run("first")
    return made


def telling(services: Services, run: str, owner: str, boards: Path) -> Telling:
    ledger = RunLedger(services.database, run, owner)
    return Telling(
        [StageRecord(name=name) for name in ("teacher", "pretrain")],
        ledger,
        boards,
        services_clock(services),
        Pace(0.0),
    )


def services_clock(services: Services) -> Any:
    return services.runbook._clock


def told(services: Services, run: str, stage: int = 0) -> list[tuple[int, dict[str, float | None]]]:
    return [(p.tokens, p.values) for p in services.runbook.metrics(run, stage=stage)[0].points]


def test_a_killed_workers_series_goes_on_where_its_checkpoint_was(
    services: Services, clock: TurnedClock, run: str, tmp_path: Path
) -> None:
    first = telling(services, run, "first", tmp_path)
    for done in (10, 20, 30, 40):
        first.report(0, done, 100, {"loss": 100.0 - done})
    first.report(0, 40, 100, {"bits_per_byte": 3.0})
    assert told(services, run)[-1] == (40, {"loss": 60.0, "bits_per_byte": 3.0})
    clock.turn(60)
    assert services.claims.claim_run("second") is not None
    with pytest.raises(OwnershipLost):
        first.report(0, 50, 100, {"loss": 0.0})
    second = telling(services, run, "second", tmp_path)  # resumed after 20 tokens
    second.report(0, 30, 100, {"loss": 71.0, "gradient_norm": math.inf})
    assert told(services, run) == [
        (10, {"loss": 90.0}),
        (20, {"loss": 80.0}),
        (30, {"loss": 71.0, "gradient_norm": None}),
    ]
    second.report(1, 10, 50, {"loss": 9.0, "tokens_per_second": 1234.5})
    assert [len(each.points) for each in services.runbook.metrics(run)] == [3, 1, 0]
    progress = services.runbook.view(run).progress
    assert (progress.message, progress.done) == ("stage 2 of 2: pretrain, loss 9.000, 1,234 tokens/s", 10)


def test_a_long_stage_stays_within_its_bound(services: Services, run: str, tmp_path: Path) -> None:
    at = services_clock(services)()
    with services.database.write() as session:
        full = [MetricRow(run_id=run, position=0, tokens=1 + n, at=at, values_json='{"loss": 1}') for n in range(LIMIT)]
        session.add_all(full)
    telling(services, run, "first", tmp_path).report(0, LIMIT + 1, 10**9, {"loss": 1.0})
    points = told(services, run)
    assert LIMIT // 3 < len(points) <= LIMIT // 2
    assert (points[0][0], points[-1][0]) == (1, LIMIT + 1)
    few = services.runbook.metrics(run, stage=0, since=500, limit=10)[0].points
    assert (len(few), few[-1].tokens) == (10, LIMIT + 1)
    assert few[0].tokens > 500
    assert services.runbook.metrics(run, stage=0, names=("nothing",))[0].points == ()


def test_a_stage_may_leave_data_in_the_place_of_a_checkpoint(services: Services, run: str, tmp_path: Path) -> None:
    records = [StageRecord(name="synthesise", makes="data")]
    hears = Telling(records, RunLedger(services.database, run, "first"), tmp_path, services_clock(services))
    hears.report(0, 16, 40, {"examples": 3.0})
    left = Path("00-synthesise-ab/synthesis/examples.jsonl")
    hears.finished(
        0, Outcome(stage="synthesise", data=left, before={}, after={"seeds": 40}, tokens=0, parameters=0, seconds=0)
    )
    found = services.runbook.view(run).stages[0]
    assert (found.makes, found.data, found.checkpoint, found.after) == ("data", str(left), None, {"seeds": 40})


def test_the_last_word_of_a_stage_is_kept(services: Services, run: str, tmp_path: Path) -> None:
    hears = Telling(
        [StageRecord(name="pretrain")], RunLedger(services.database, run, "first"), tmp_path, services_clock(services)
    )
    for done in (10, 20, 30):
        hears.report(0, done, 100, {"loss": 1.0})
    assert [tokens for tokens, _ in told(services, run)] == [10]
    hears.flush()  # as when the training diverges
    assert [tokens for tokens, _ in told(services, run)] == [10, 30]
    hears.report(0, 90, 100, {"loss": 1.0})
    hears.report(0, 100, 100, {"loss": 1.0})
    outcome = Outcome(
        stage="pretrain", checkpoint=Path("sealed/x"), before={}, after={}, tokens=100, parameters=1, seconds=1
    )
    hears.finished(0, outcome)
    assert [tokens for tokens, _ in told(services, run)] == [10, 30, 100]
    assert services.runbook.view(run).stages[0].state is WorkState.SUCCEEDED


class Written:
    """Stands for TensorBoard's SummaryWriter."""

    made: list["Written"] = []  # noqa: RUF012  # a test empties it

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step = log_dir, purge_step
        self.scalars: list[tuple[str, float, int, float]] = []
        self.flushed = self.closed = 0
        self.made.append(self)

    def add_scalar(self, *scalar: Any) -> None:
        self.scalars.append(scalar)

    def flush(self) -> None:
        self.flushed = len(self.scalars)

    def close(self) -> None:
        self.closed += 1


def test_tensorboard_gets_the_same_points_where_it_is_installed(
    services: Services, clock: TurnedClock, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = ModuleType("torch.utils.tensorboard")
    fake.__dict__["SummaryWriter"] = Written
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: name == "tensorboard")
    monkeypatch.setattr(Written, "made", [])
    hears = telling(services, run, "first", tmp_path)
    for stage, done in ((0, 10), (0, 20), (0, 15), (1, 10)):
        hears.report(stage, done, 100, {"loss": float(done)})
    at = clock().timestamp()
    assert [(Path(w.log_dir).name, w.purge_step, w.scalars, w.closed) for w in Written.made] == [
        ("00-teacher", 10, [("loss", 10.0, 10, at), ("loss", 20.0, 20, at)], 1),
        ("00-teacher", 15, [("loss", 15.0, 15, at)], 1),
        ("01-pretrain", 10, [("loss", 10.0, 10, at)], 0),
    ]
    assert all(w.flushed == len(w.scalars) for w in Written.made)


def test_metrics_as_csv_say_what_was_not_told_and_what_was_no_number() -> None:
    points = (
        MetricPoint(tokens=10, at=NOW, values={"loss": 2.5}),
        MetricPoint(tokens=20, at=NOW, values={"loss": None, "bits_per_byte/a, b": 1.5}),
    )
    stages = [StageMetrics(position=0, name="teacher", points=()), StageMetrics(position=1, name="qat", points=points)]
    file = io.StringIO()
    as_csv(chosen(stages, "qat"), file)
    file.seek(0)
    assert list(csv.reader(file)) == [
        ["stage", "name", "tokens", "at", "bits_per_byte/a, b", "loss"],
        ["1", "qat", "10", NOW.isoformat(), "", "2.5"],
        ["1", "qat", "20", NOW.isoformat(), "1.5", "nan"],
    ]
    assert chosen(stages, "0") == stages[:1]
    with pytest.raises(NoSuchStage):
        chosen(stages, "ptq")


def test_a_line_of_bars_follows_the_values() -> None:
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([0.0, 7.0]) == "▁█"
    falling = sparkline([1000.0 - i for i in range(1000)])
    assert len(falling) == 32
    assert list(falling) == sorted(falling, reverse=True)
