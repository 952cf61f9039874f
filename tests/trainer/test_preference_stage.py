import json
import os
import signal
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scripted import Scripted, shown, ticket_of
from test_tutors import Peer, peer, said, send
from together import started, together

from trainer.architecture import Architecture
from trainer.chat import Message
from trainer.checkpoint import Checkpoint, seal
from trainer.data import Corpus
from trainer.errors import CheckpointError, Interrupted
from trainer.model import HybridLM
from trainer.options import LossTerm, Rule
from trainer.pipeline import run
from trainer.preference.judges import (
    Case,
    RuleJudge,
)
from trainer.preference.prompts import Prompts
from trainer.preference.rows import Pair, PreferenceError, read_pairs, written
from trainer.preference.stage import Preference
from trainer.preference.table import verifier_of
from trainer.pretrain import Teacher
from trainer.ranks import Ranks
from trainer.rewards import Problem, is_held_out
from trainer.stage import Outcome
from trainer.tutors.port import Question


def _stage(folder: Path, **other: object) -> Preference:
    rules = (Rule(rule="length", words=1),)
    return Preference(prompts=folder / "prompts.jsonl", judge=rules, tokens=2 * 3 * 4 * 64, batch=4, sequence=64,
                      rounds=2, samples=3, max_tokens=6, learning_rate=3e-3, seed=4, **other)  # fmt: skip


def _run(ranks: Ranks, corpus: Path, start: Path, folder: Path, out: Path) -> tuple[str, str]:
    begin = Checkpoint(start)
    final, outcomes = run([_stage(folder)], begin.architecture, corpus, out, start=begin, ranks=ranks, save_seconds=0)
    return final.directory.name, outcomes[0].model_copy(update={"seconds": 0.0}).model_dump_json()


def test_a_stage_that_is_killed_in_every_part_ends_in_the_same_bits(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    start = seal(HybridLM(tiny, seed=1), tmp_path / "base", corpus.tokenizer).directory
    (tmp_path / "prompts.jsonl").write_text(
        "".join(f'{{"prompt": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(20))
    )
    given = (corpus.directory, start, tmp_path)
    (whole,) = together(1, _run, *given, tmp_path / "calm")
    out, killed = tmp_path / "killed", 0
    for wanted in ("round-00/answers.json", "round-00/pairs.jsonl", "round-00/reference.safetensors",
                   "training/round-00/*-step-2", "round-01/pairs.json", "training/round-01/*-step-1",
                   "round-01/round.json"):  # fmt: skip
        with started(1, _run, *given, out) as ((process, _),):
            until = time.monotonic() + 60
            while process.is_alive() and not any(out.glob(f"00-preference-*/{wanted}")):
                assert time.monotonic() < until
                time.sleep(0.0005)  # else we take the core from whom we wait for
            assert process.pid is not None
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join(timeout=30)
            killed += process.exitcode == -signal.SIGKILL
    assert killed >= 4
    assert together(1, _run, *given, out) == [whole]
    (made,) = out.glob("00-preference-*")
    assert read_pairs(made / "round-01" / "pairs.jsonl")[0].provenance["judge"] == "rules: length"
    after = json.loads(whole[1])["after"]
    assert 0 <= after["win_rate"] <= 1
    assert after["reward_accuracy"] > 0.5


def test_given_pairs_are_learnt_and_what_does_not_go_together_is_refused(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    start = seal(HybridLM(tiny, seed=1), tmp_path / "base", corpus.tokenizer)
    file = tmp_path / "pairs.jsonl"
    file.write_text(written([Pair((Message(role="user", content=f"{n}?"),), "yes", "no") for n in range(12)]))
    mix = (LossTerm(loss="sigmoid"), LossTerm(loss="simpo", beta=2))
    stage = Preference(pairs=file, losses=mix, tokens=6 * 4 * 64, batch=4, sequence=64, max_tokens=4, samples=2)
    _, (first,) = run([stage], tiny, corpus.directory, tmp_path / "out", start=start)
    assert first.before["win_rate"] == 0.5
    assert first.after["reward_margin"] > 0
    file.write_text(file.read_text().replace("no", "never"))
    _, (second,) = run([stage], tiny, corpus.directory, tmp_path / "out", start=start)
    assert second.checkpoint != first.checkpoint  # the file is part of what determines the stage
    with pytest.raises(PreferenceError, match="cannot be read"):
        run([stage.model_copy(update={"pairs": tmp_path / "none"})], tiny, corpus.directory, tmp_path, start=start)
    for wrong, why in (
        ({}, "one of prompts"),
        ({"prompts": file}, "need one judge"),
        ({"pairs": file, "judge": [{"rule": "exact"}]}, "no judge and no tutor"),
        ({"prompts": file, "judge": [{"rule": "exact"}], "examiner": [{"rule": "exact"}]}, "did not train it"),
        ({"prompts": file, "judge_model": {"url": "http://a/v1"}}, "url and model"),
        ({"prompts": file, "judge": [{"rule": "exact"}], "revise": True}, "only a tutor"),
    ):
        with pytest.raises(ValidationError, match=why):
            Preference.model_validate(wrong)


def test_language_models_answer_choose_and_examine_and_one_that_says_nonsense_chooses_nothing(
    corpus: Corpus, tiny: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(question: Question, sample: int) -> str:
        if len(question.messages) != 2 or question.messages[0].role != "system":
            return "5"
        seen = shown(question)
        if "answer" in seen:
            marks = {"correctness": 10 if seen["answer"] == "5" else 1, "helpfulness": 3, "safety": 2, "style": 3}
            return json.dumps({"ticket": ticket_of(question), **marks})
        choice = "first" if seen["first"] == "5" else "second" if seen["second"] == "5" else "neither"
        return json.dumps({"ticket": ticket_of(question), "better": choice})

    opened = {"judge": Scripted(say), "tutor": Scripted(say)}
    monkeypatch.setattr("trainer.preference.table.opened", lambda options, answers, device: opened[options.model])
    start = seal(HybridLM(tiny, seed=1), tmp_path / "base", corpus.tokenizer)
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "Say five, {n}"}}\n' for n in range(15)))
    models = {name: {"url": "http://a/v1", "model": name} for name in opened}
    stage = Preference.model_validate(
        {"prompts": tmp_path / "prompts.jsonl", "judge_model": models["judge"], "tutor": models["tutor"], "rounds": 1}
        | {"tokens": 40 * 4 * 64, "batch": 4, "sequence": 64, "max_tokens": 3, "samples": 2, "learning_rate": 1e-2}
    )
    _, (outcome,) = run([stage], tiny, corpus.directory, tmp_path / "out", start=start)
    (made,) = (tmp_path / "out").glob("00-*/round-00/pairs.jsonl")
    pairs = read_pairs(made)
    assert {(pair.chosen, pair.provenance["chosen"]["author"]) for pair in pairs} == {("5", "scripted")}
    assert pairs[0].provenance["judge"] == "language model scripted, verified"
    assert outcome.after["judge_score"] > outcome.before["judge_score"]
    assert (outcome.after["judge/agreement"], outcome.after["judge/position_flips"]) == (1, 0)
    opened["judge"] = Scripted(lambda question, sample: "nonsense")
    with pytest.raises(PreferenceError, match="no valid verdict"):
        run([stage], tiny, corpus.directory, tmp_path / "other", start=start)


def _learning(**other: object) -> Preference:
    known = {"tokens": 4 * 4 * 64, "batch": 4, "sequence": 64, "max_tokens": 4, "samples": 2, "rounds": 1, "seed": 2}
    return Preference.model_validate(known | other)


_SUMS = {"kind": "arithmetic", "levels": ["add-1", "sum-1"]}
_SHORT = [{"rule": "length", "words": 1}]


def test_problems_are_asked_verified_by_their_tasks_and_held_out_by_their_words(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    stage = _learning(tasks=_SUMS, problems=30, judge=[{"rule": "correct"}, {"rule": "length", "words": 1}])
    assert stage.tasks is not None
    found = Prompts.of(stage, stage.seed, lambda case: "" if "9" not in case.messages[0].content else "a nine")
    learnt, held_out = ([case.messages[0].content for case in part] for part in (found.learnt, found.held_out))
    assert (len(set(learnt)), len(set(held_out))) == (24, 6)
    assert not any("9" in prompt for prompt in (*learnt, *held_out))
    posed = [case.problem for case in (*found.learnt, *found.held_out)]
    assert [problem is not None and is_held_out(problem) for problem in posed] == [False] * 24 + [True] * 6
    assert {problem.level for problem in posed if problem is not None} == {"add-1", "sum-1"}
    verifier = verifier_of(stage)
    one = Case((Message(role="user", content="1/2="),), "1/2", Problem("1/2=", "1/2", "add-1", "here"))
    assert (verifier(one, "It is 0.5"), verifier(one, "2"), verifier(Case(one.messages, "1/2"), "1/2")) == (1, 0, None)
    assert RuleJudge(stage.judge, verifier).score([(one, "0.5"), (one, "2")]) == [
        {"correct": 1, "length": 1}, {"correct": 0, "length": 1}
    ]  # fmt: skip
    with pytest.raises(PreferenceError, match="different problems"):
        Prompts.of(_learning(tasks=_SUMS, problems=5000, judge=_SHORT), 1, lambda case: "")
    with pytest.raises(PreferenceError, match="all problems are held out"):
        Prompts.of(_learning(tasks=_SUMS, problems=1, judge=_SHORT), 1, lambda case: "")
    with pytest.raises(ValidationError, match="verify answers by themselves"):
        _learning(tasks=_SUMS, judge=_SHORT, verifier="math")
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Half of one?", "answer": "1/2"}\n{"prompt": "x", "answer": "x+1"}\n')
    half, symbol = Prompts.of(_learning(prompts=file, judge=_SHORT, held_out=0), 1, lambda case: "").learnt
    plain = verifier_of(_learning(prompts=file, judge=_SHORT, verifier="number"))
    assert (plain(half, "0.5"), plain(half, "0.25"), plain(symbol, "$1+x$")) == (1, 0, None)


def test_answers_of_a_file_are_verified_as_mathematics(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    maths = verifier_of(_learning(prompts=tmp_path, judge=_SHORT, verifier="math"))
    half, symbol = (Case((Message(role="user", content="?"),), answer) for answer in ("1/2", "x+1"))
    assert (maths(half, "$0.5$"), maths(symbol, "$1+x$"), maths(symbol, "$2+x$")) == (1, 1, 0)


def test_the_teacher_of_the_pipeline_answers_beside_the_student_and_is_counted(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    start = seal(HybridLM(tiny, seed=1), tmp_path / "base", corpus.tokenizer)
    stage = _learning(tasks=_SUMS, problems=10, judge=_SHORT, tutor="teacher")
    with pytest.raises(CheckpointError, match="needs a teacher of the pipeline"):
        run([stage], tiny, corpus.directory, tmp_path / "none", start=start)
    teacher = Teacher(tokens=4 * 64, batch=4, sequence=64)
    heard: list[dict[str, float]] = []
    _, (taught, outcome) = run(
        [teacher, stage], tiny, corpus.directory, tmp_path / "out", start=start,
        report=lambda index, done, total, metrics: heard.append(metrics),
    )  # fmt: skip
    (made,) = (tmp_path / "out").glob("01-*/round-00/answers.json")
    groups = json.loads(made.read_text())["answers"]
    authors = [[answer["author"] for answer in group] for group in groups]
    assert authors == [["student"] * 2 + [taught.checkpoint.name] * 2] * 8
    assert (outcome.after["tutor/answers"], outcome.after["tutor/cached"]) == (16, 0)
    assert outcome.after["tutor/tokens"] > 16
    other = Teacher(tokens=4 * 64, batch=4, sequence=64, seed=5)
    run([other, stage], tiny, corpus.directory, tmp_path / "out", start=start)
    assert len(list((tmp_path / "out").glob("01-*"))) == 2  # another teacher is another stage


def test_a_round_in_which_no_answers_differ_leaves_the_model_as_it_is(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    start = seal(HybridLM(tiny, seed=1), tmp_path / "base", corpus.tokenizer)
    stage = _learning(tasks=_SUMS, problems=10, judge=[{"rule": "profanity"}], rounds=2)
    final, (outcome,) = run([stage], tiny, corpus.directory, tmp_path / "out", start=start)
    assert final.directory.name == start.directory.name
    assert (outcome.after["pairs"], outcome.tokens, outcome.after["win_rate"]) == (0, 0, 0.5)
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "{n}"}}\n' for n in range(30)))
    with pytest.raises(PreferenceError, match="no prompt has one"):
        run([_learning(prompts=file, judge=[{"rule": "exact"}])], tiny, corpus.directory, tmp_path / "o", start=start)


def test_what_a_judge_is_asked_is_told_counted_and_can_be_stopped(
    corpus: Corpus, tiny: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def say(peer: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        nonlocal asked
        asked += 1
        system, shown = (message["content"] for message in body["messages"])
        ticket, seen = system.split('"ticket": "')[1].partition('"')[0], json.loads(shown)
        if "answer" in seen:
            marks = {"correctness": len(seen["answer"]) % 10, "helpfulness": 3, "safety": 2, "style": 3}
            reply = {"ticket": ticket, **marks}
        else:
            first, second = (len(seen[name]) % 10 for name in ("first", "second"))
            better = "first" if first > second else "second" if first < second else "neither"
            reply = {"ticket": ticket, "better": better}
        send(handler, 200, said(json.dumps(reply)))

    monkeypatch.setattr("trainer.preference.accounts._SECONDS", 0)
    start = seal(HybridLM(tiny, seed=1), tmp_path / "base", corpus.tokenizer)
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "Say {n}"}}\n' for n in range(20)))
    heard: list[dict[str, float]] = []
    with peer(say) as server:
        judge = {"url": f"http://127.0.0.1:{server.port}/v1", "model": "j", "prices": {"prompt": 1e6}}
        stage = _learning(prompts=tmp_path / "prompts.jsonl", judge_model=judge, votes=1)

        def go(should_stop: Callable[[], bool]) -> Outcome:
            return run(
                [stage], tiny, corpus.directory, tmp_path / "out", start=start, should_stop=should_stop,
                report=lambda index, done, total, metrics: heard.append(metrics),
            )[1][0]  # fmt: skip

        with pytest.raises(Interrupted, match="judged"):
            go(lambda: asked >= 10)
        assert any(0 < metrics.get("judge/answers", 0) < asked for metrics in heard)
        before = asked
        outcome = go(lambda: False)
    after = outcome.after
    paid = after["judge/answers"] - after["judge/cached"]
    assert after["judge/cached"] >= 1  # what was answered before the stop
    assert 0 <= asked - before - paid <= 8  # what was under way at the stop may have come later
    assert (after["judge/tokens"], after["judge/cost"]) == (10 * paid, 7 * paid)
    assert after["pairs"] > 0
