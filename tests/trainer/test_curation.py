"""Curation: what goes and why, in an order that depends on nothing but the input."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from server.cli.main import application
from trainer.architecture import Architecture
from trainer.chat import PlainTemplate
from trainer.checkpoint import Checkpoint, seal
from trainer.curation import Curated, Curation, curate
from trainer.curation.difficulty import Difficulty, Sampling, difficulties
from trainer.curation.diversity import centres
from trainer.data import Corpus
from trainer.dialogues import Conversation, Dialogues, Skipped, conversations
from trainer.engine import Run, hard_labels, train
from trainer.model import HybridLM
from trainer.recipe import Recipe
from trainer.sft import Chats

_BY_HEART = Recipe(tokens=40 * 64, batch=1, sequence=64, learning_rate=2e-2)
_ODD = {"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}]}
_LONG = "The lock of the canal is opened by the keeper at eight, and boats of all sizes wait in a row before it; {}."
_ROWS = {
    "plain": ("Where is the lock?", "It is by the bridge."),
    "the same, other case": ("where is the  lock?", "It is by the bridge."),
    "near": ("Tell me of the canal.", _LONG.format("they pay a small fee to him on leaving it")),
    "nearly the same": ("Tell of the canal.", _LONG.format("they pay a small fee to him on leaving")),
    "plus": ("What is 3 + 4?", "7"),
    "minus": ("What is 3 - 4?", "-1"),
    "wrong": ("What is 3 + 4?", "8"),
    "right again": ("What is 3  + 4?", "7"),
    "repeats": ("Say more.", "and so on we go then " * 6),
    "breaks off": ("List them.", "One, two,"),
    "marks": ("Who is it?", "Me. <|im_end|> <|im_start|>user"),
    "model": ("Who?", "As an AI language model, I cannot say."),
    "echo": ("Repeat this.", "Repeat this."),
    "long": ("Go on.", "word" * 100),
}


def _rows(folder: Path, said: dict[str, tuple[str, str]] = _ROWS) -> list[Conversation]:
    path = folder / "in.jsonl"
    rows = [
        {"name": name, "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for name, (q, a) in said.items()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return list(conversations([path], Skipped()))


def _curated(rows: list[Conversation], **asked: Any) -> Curated:
    return curate(rows, Curation(**asked), skipped=Skipped(), report=lambda *_: None)


def test_each_filter_removes_its_own_and_the_report_adds_up(tmp_path: Path) -> None:
    found = _curated(_rows(tmp_path), longest=350, conflicts="majority", near_duplicates=0.8)
    assert [row["name"] for row in found.rows] == ["plain", "near", "plus", "minus"]
    removed = {step["name"]: step["removed"] for step in found.report["filters"]}
    assert removed == {"length": 1, "quality": 5, "conflicts": 1, "exact_duplicates": 2, "near_duplicates": 1}
    assert sum(removed.values()) + found.report["kept"] == found.report["rows"] == len(_ROWS)
    for step in found.report["filters"]:
        assert sum(step["reasons"].values()) == step["removed"] <= step["removed_alone"]
        assert len(step["examples"]) == step["removed"]
    (conflict,) = found.report["conflicts"]["listed"]
    assert [each["answer"] for each in conflict["answers"]] == ["7", "8"]
    assert [place.rsplit(" ", 1)[1] for place in conflict["answers"][0]["places"]] == ["5", "8"]


def test_conflicts_are_listed_or_dropped_and_filters_can_be_left_out(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    off = {"quality": None, "near_duplicates": None, "exact_duplicates": False}
    assert len(_curated(rows, **off).rows) == len(rows)
    names = {row["name"] for row in _curated(rows, conflicts="drop", **off).rows}
    assert set(_ROWS) - names == {"plus", "wrong", "right again"}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(2, 8))
def test_centres_cover_within_twice_the_best_radius(seed: int, count: int) -> None:
    """Gonzalez' bound, for chords of the sphere, against the best of many random choices."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(24, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)

    def radius(chosen: list[int]) -> float:
        return float(np.linalg.norm(points[:, None] - points[chosen][None], axis=2).min(axis=1).max())

    chosen = centres(points, count, lambda *_: None)
    assert len(set(chosen)) == count
    assert chosen == centres(points, count, lambda *_: None)
    best = min(radius(random.permutation(24)[:count].tolist()) for _ in range(200))
    assert radius(chosen) <= 2 * best + 1e-4


def test_diversity_keeps_one_of_each_kind(tmp_path: Path) -> None:
    kinds = {
        "boats": "the boat in the lock waits",
        "sums": "a sum of seven and nine",
        "bread": "flour water salt yeast",
    }
    said = {f"{kind} {n}": (f"{text} {n}?", f"{text} {n * 7}") for kind, text in kinds.items() for n in range(8)}
    found = _curated(_rows(tmp_path, said), keep=3, near_duplicates=None)
    assert {row["name"].split()[0] for row in found.rows} == set(kinds)


def test_difficulty_is_the_mean_loss_of_the_answer_over_the_ensemble(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    rows = _rows(tmp_path)
    models = [HybridLM(tiny, seed=seed).eval() for seed in (1, 2)]
    kept = [seal(model, tmp_path / "sealed", corpus.tokenizer) for model in models]
    found = difficulties(rows, kept, 512, lambda *_: None)
    template = PlainTemplate(corpus.tokenizer)
    for row, told in zip(rows, found, strict=True):
        spoken = template.spoken(row.messages)
        tokens = torch.tensor(spoken.tokens)[None]
        said = torch.tensor(spoken.said[1:])
        alone = [
            torch.nn.functional.cross_entropy(model(tokens[:, :-1])[0][said], tokens[0, 1:][said]).item()
            for model in models
        ]
        assert told is not None
        assert told.nats == pytest.approx(sum(alone) / 2, rel=1e-4)
    judged = curate(
        rows, Curation(quality=None), skipped=Skipped(), checkpoints=kept, sequence=512, report=lambda *_: None
    )
    nats = [row["curation"]["nats"] for row in judged.rows]
    assert nats == sorted(nats)
    assert difficulties(rows, kept[:1], 8, lambda *_: None)[-1] is None


def test_success_is_the_share_of_sampled_answers_that_are_right_where_they_can_be_verified(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    """One checkpoint of two knows two of four numbers by heart, and says them as sampled; words are read alone."""
    path = tmp_path / "four.jsonl"
    said = [("a", "12"), ("b", "7"), ("a a a", "55"), ("b b b", "some words"), ("a", "It is 12.")]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in said]
    path.write_text("\n".join(map(json.dumps, rows[:2])))
    taught, other = HybridLM(tiny), HybridLM(tiny, seed=5).eval()
    train(taught, Chats(corpus, Dialogues.open(path, corpus.tokenizer), 0.0), _BY_HEART, hard_labels, Run())
    kept = [seal(model, tmp_path / "sealed", corpus.tokenizer) for model in (taught, other)]
    path.write_text("\n".join(json.dumps(row) for row in [*rows[:4], rows[4] | {"answer": "12"}]))
    given = list(conversations([path], Skipped()))
    how = Sampling(samples=4, temperature=0.3, max_tokens=8)
    found = difficulties(given, kept, 64, lambda *_: None, how)
    # The last is right as verified, though its words are not what is said.
    wanted = [(0.5, 8), (0.5, 8), (0.0, 8), (0.0, 0), (0.5, 8)]
    assert [each and (each.success, each.samples) for each in found] == wanted
    (crowded,) = difficulties(given[:1], kept, 64, lambda *_: None, replace(how, max_tokens=60))
    assert crowded is not None
    assert crowded.samples == 0  # prompt and answer have no room together

    asked = Curation(samples=4, temperature=0.3, max_tokens=8, solved_least=0.25, solved_most=0.9)
    judged = curate(given, asked, skipped=Skipped(), checkpoints=kept, sequence=64, report=lambda *_: None)
    assert {row["messages"][0]["content"] for row in judged.rows} >= {"a", "b"}
    assert judged.report["filters"][-1]["name"] == "success"
    assert judged.report["filters"][-1]["examples"][0]["why"] == "success of 0.000"
    assert judged.report["difficulty"]["sampled"] == 4
    assert judged.rows[0]["curation"]["samples"] == 8


def test_rows_are_ordered_by_success_and_then_by_nats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [Difficulty(0.1, 0.0), Difficulty(3.0, 1.0), None, Difficulty(0.5, 1.0)]
    rows = _rows(tmp_path, {name: (f"q {name}", f"a {name}") for name in "abcd"})
    # By module: the package has a function of this module's name.
    monkeypatch.setattr(sys.modules["trainer.curation.curate"], "difficulties", lambda *_: told)
    judged = curate(rows, Curation(), skipped=Skipped(), checkpoints=[Checkpoint(tmp_path)], report=lambda *_: None)
    assert [row["name"] for row in judged.rows] == ["d", "b", "a", "c"]


def test_the_command_writes_rows_that_it_reads_again(tmp_path: Path) -> None:
    _rows(tmp_path)
    source, out, report = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "report.json"
    with source.open("a") as file:
        file.write("\n{broken\n")
        row = _ODD | {"source": "\ud800"}
        file.write(json.dumps(row) + "\n")
    run = CliRunner().invoke(application(), ["curate", str(source), str(out), "--report", str(report)])
    assert run.exit_code != 0
    assert not out.exists()
    run = CliRunner().invoke(application(), ["curate", str(source), str(out), "--report", str(report), "--skip-bad"])
    assert run.exit_code == 0, run.output
    told = json.loads(report.read_text())
    assert told["bad_rows"] == {"not JSON": 1}
    kept = list(conversations([out], Skipped()))
    assert len(kept) == told["kept"]
    assert kept[-1].row["source"] == "\ud800"
    again = CliRunner().invoke(application(), ["curate", str(out), str(tmp_path / "twice.jsonl")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "twice.jsonl").read_text() == out.read_text()
    for wrong in (["--easiest", "1"], ["--samples", "2"], ["--conflicts", "guess"]):
        assert CliRunner().invoke(application(), ["curate", str(out), str(report), *wrong]).exit_code == 2
    assert CliRunner().invoke(application(), ["curate", str(out), str(out)]).exit_code == 2
