"""Which figure speaks for a stage, and how the command line shows it."""

from io import StringIO
from typing import Any, get_args

import pytest
from rich.console import Console

from server.api.views import StageView
from server.cli import summary
from server.headlines import KINDS, written
from server.runs import StageName, StageRecord, StageRequest, WorkState

DIGEST = "a" * 64


def stage(name: str, before: dict[str, float], after: dict[str, float], **options: Any) -> StageView:
    record = StageRecord(name=name, state=WorkState.SUCCEEDED, before=before, after=after, seconds=61.0)
    return StageView.of(record, StageRequest.model_construct(name=name, options=options))  # options of any branch


def test_every_stage_that_can_be_asked_for_has_a_headline() -> None:
    assert set(get_args(StageName)) <= set(KINDS)
    assert [KINDS[name].lever for name in ("pretrain", "extend", "synthesise", "sft", "preference", "rl", "qat")] == [
        *range(2, 9)
    ]


@pytest.mark.parametrize(
    ("name", "figure", "before", "after", "change"),
    [
        ("pretrain", "bits_per_byte", 8.0, 2.0, "better"),
        ("ptq", "bits_per_byte", 2.0, 2.3, "worse"),
        ("qat", "bits_per_byte", 2.0001, 2.0004, "same"),  # both are printed as 2.000
        ("sft", "answers/nats", 4.0, 2.0, "better"),
        ("preference", "win_rate", 0.5, 0.43, "worse"),
        ("rl", "success", 0.1, 0.6, "better"),
        ("rl", "success", 0.6, 0.59, "worse"),
        ("rl", "success", 0.60001, 0.60002, "same"),
        ("extend", "bits_per_byte/long", 3.0, 2.5, "better"),
    ],
)
def test_a_change_is_named_by_what_is_better_for_its_figure(
    name: str, figure: str, before: float, after: float, change: str
) -> None:
    found = stage(name, {figure: before}, {figure: after}).headline
    assert (found.figure, found.before, found.after, found.change) == (figure, before, after, change)


def test_nothing_is_claimed_of_what_has_no_before_or_no_better() -> None:
    assert stage("rl", {}, {"success": 0.9}).headline.change is None
    assert stage("rl", {}, {}).headline.figure == "success"
    yields = stage("synthesise", {"yield": 0.2}, {"yield": 0.4}).headline
    assert (yields.after, yields.change) == (0.4, None)


def test_forgetting_is_told_beside_what_is_not_text_itself() -> None:
    found = stage("rl", {"success": 0.1, "bits_per_byte": 2.0}, {"success": 0.6, "bits_per_byte": 2.2}).forgetting
    assert found is not None
    assert (found.before, found.after, found.change) == (2.0, 2.2, "worse")
    assert stage("pretrain", {"bits_per_byte": 2.0}, {"bits_per_byte": 1.0}).forgetting is None
    assert stage("rl", {"success": 0.1}, {"success": 0.6}).forgetting is None


def test_rules_are_never_called_a_language_model() -> None:
    rules = [{"rule": "exact"}]
    told = " ".join(stage("preference", {}, {}, prompts=DIGEST, judge=rules).notes)
    assert "Examined by rules, not a language model (all that need no setting and chose no pair)" in told
    assert "chosen by rules, not a language model (exact)" in told
    assert "A tie counts half" in told
    told = " ".join(stage("preference", {}, {}, judge=rules, examiner=[{"rule": "number"}, {"rule": "length"}]).notes)
    assert "Examined by rules, not a language model (number, length)" in told
    model = {"url": "http://127.0.0.1/v1", "model": "judge-7b"}
    told = " ".join(stage("preference", {}, {}, prompts=DIGEST, judge=rules, examiner_model=model).notes)
    assert "Examined by the language model judge-7b." in told
    assert "Pairs were given" in " ".join(stage("preference", {}, {}, pairs=DIGEST).notes)


@pytest.mark.parametrize(("merged", "words"), [(1.9, "beats each of its parents"), (2.3, "dropped, and maths goes on")])
def test_a_merge_says_whether_it_beat_its_parents(merged: float, words: str) -> None:
    parents = {"parent/chat": 2.5, "parent/maths": 2.1}
    won = float(merged < 2.1)
    found = stage("merge", {"nats": 4.0}, {"nats": min(merged, 2.1), "merge/nats": merged, "merge/won": won} | parents)
    assert (found.lever, found.headline.figure, found.headline.change) == (5, "nats", "better")
    (note,) = found.notes
    assert words in note
    assert f"{merged:.3f} nats a token" in note
    assert "(chat 2.500, maths 2.100)" in note
    assert not stage("merge", {}, {}).notes


def test_what_a_stage_of_the_teacher_did_is_not_taken_for_the_students() -> None:
    assert stage("sft", {}, {}, data=[DIGEST], of="teacher").title.endswith("of the teacher")
    assert not stage("sft", {}, {}, data=[DIGEST]).title.endswith("of the teacher")


def test_the_summary_has_a_row_a_lever_and_keeps_all_figures() -> None:
    stages = [
        stage("pretrain", {"bits_per_byte": 8.05}, {"bits_per_byte": 2.02}),
        stage("rl", {"success": 0.125, "bits_per_byte": 2.02}, {"success": 0.5, "bits_per_byte": 2.11, "success/a": 1}),
    ]
    report = [summary._stage(each) for each in stages]
    assert report[1]["figures"]["after"]["success/a"] == 1
    assert (report[1]["lever"], report[1]["metric"], report[1]["before"]) == (7, "success", 0.125)
    heard = StringIO()
    Console(file=heard, width=160).print(summary._levers(report))
    (rl,) = [line for line in heard.getvalue().splitlines() if "reinforcement" in line]
    for cell in ("7", "12.5 %", "50.0 %", "better", "2.020 -> 2.110 worse", "61 s"):
        assert cell in rl


def test_the_summary_can_be_read_in_80_columns() -> None:
    waits = StageView.of(StageRecord(name="rl"), StageRequest(name="rl"))
    stages = [stage("rl", {"success": 0.5, "bits_per_byte": 2.0}, {"success": 1.0, "bits_per_byte": 2.0}), waits]
    heard = StringIO()
    Console(file=heard, width=80).print(summary._levers([summary._stage(each) for each in stages]))
    for word in ("reinforcement", "problems", "100.0 %", "no change", "queued"):
        assert word in heard.getvalue()
    assert "…" not in heard.getvalue()


def test_ties_are_printed_as_the_page_prints_them() -> None:
    assert (written(0.5525, "percent"), written(0.0625, "percent")) == ("55.3 %", "6.3 %")
    assert written(1.0625, "bits per byte") == "1.063"  # JavaScript's toFixed; Python's format says 1.062
