"""The stages between teacher and student: what one makes another learns, and no kill changes any of it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint
from trainer.data import Corpus
from trainer.errors import CheckpointError, Interrupted
from trainer.pipeline import run, stages_of
from trainer.sandbox import SandboxError
from trainer.stage import Outcome
from trainer.synthesis import SynthesisError

_SMALL = {"batch": 4, "sequence": 64}
_TAUGHT = [{"kind": "teacher", "tokens": 1_024, **_SMALL}, {"kind": "pretrain", "tokens": 1_024, **_SMALL}]


def recipe(**changed: Any) -> dict[str, Any]:
    """Of topics, of which anything is said; what is longer than the others goes."""
    answer = {
        "name": "answer",
        "messages": [{"role": "user", "content": "{topic}?"}],
        "sampling": {"temperature": 1.0, "max_tokens": 24, "stop": ["e", "t", " "]},
    }
    usual = {
        "name": "anything",
        "kind": "dialogue",
        "seeds": {"kind": "topics", "topics": [f"topic {number}" for number in range(40)]},
        "steps": [answer],
        "samples": 2,
        "conversation": [{"role": "user", "content": "{topic}?"}, {"role": "assistant", "content": "{answer}"}],
        "filters": [{"kind": "length", "of": "answer", "longest": 3}],
    }
    return usual | changed


def made(outcome: Outcome, directory: Path) -> bytes:
    assert outcome.data is not None
    return (directory / outcome.data).read_bytes()


def checkpoint(outcome: Outcome, directory: Path) -> Checkpoint:
    assert outcome.checkpoint is not None
    return Checkpoint(directory / outcome.checkpoint)


class Dying:
    """A flush to the disk at whose n-th call the process is killed."""

    def __init__(self, calls: int) -> None:
        self._left, self._flush = calls, os.fsync

    def __call__(self, handle: int) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        self._flush(handle)


def test_the_teacher_is_taught_and_the_student_learns_what_it_says(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    chats = tmp_path / "chats.jsonl"
    said = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b!"}]
    chats.write_text(
        "\n".join(json.dumps({"messages": [*said, {"role": "user", "content": f"{n}"}, said[1]]}) for n in range(40))
    )
    stages = stages_of(
        [
            *_TAUGHT,
            {"kind": "sft", "of": "teacher", "data": str(chats), "tokens": 512, "held_out": 0, **_SMALL},
            {"kind": "synthesise", "recipe": recipe()},
            {"kind": "sft", "tokens": 512, **_SMALL},
        ]
    )
    given = (stages, tiny, corpus.directory)
    heard: list[tuple[int, int, int]] = []
    final, outcomes = run(*given, tmp_path / "whole", report=lambda *told: heard.append(told[:3]))
    teacher, student, taught, synthesis, sft = outcomes
    assert taught.parameters == teacher.parameters > student.parameters == sft.parameters
    assert (synthesis.checkpoint, synthesis.before) == (None, {})
    assert sft.before["bits_per_byte"] == student.after["bits_per_byte"]  # the student was left alone
    rows = [json.loads(line) for line in made(synthesis, tmp_path / "whole").splitlines()]
    assert {row["provenance"]["tutor"] for row in rows} == {checkpoint(taught, tmp_path).directory.name}
    after = synthesis.after
    assert (after["seeds"], after["examples"]) == (40, len(rows))
    assert after["yield"] == len(rows) / 80 < 1
    assert 0 < after["removed/length answer"] < 1
    assert after["tutor/tokens"] > 0
    assert 0 < synthesis.seconds < 600
    assert [told[1:] for told in heard if told[0] == 3] == [(16, 40), (32, 40), (40, 40)]
    assert sft.after["data/conversations"] + sft.after["data/held_out"] == len(rows)

    parts = tmp_path / "parts"
    run(stages[:3], *given[1:], parts)
    child = os.fork()
    if child == 0:
        os.fsync = Dying(6)  # in the second of three blocks
        run(*given, parts)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with pytest.raises(Interrupted, match="32 of 40 seeds"):
        run(*given, parts, should_stop=lambda: True)
    again, resumed = run(*given, parts)
    assert made(resumed[3], parts) == made(synthesis, tmp_path / "whole")
    assert resumed[3].after == after
    assert again.directory.name == final.directory.name

    heard.clear()
    run(*given, tmp_path / "whole", report=lambda *told: heard.append(told[:3]))
    assert not heard
    data = tmp_path / "whole" / (synthesis.data or "")
    data.write_text("".join(f"{line}\n" for line in data.read_text().splitlines()[1:]))
    run(*given, tmp_path / "whole", report=lambda *told: heard.append(told[:3]))
    assert {told[0] for told in heard} == {4}  # its data is other data now


def test_a_model_answers_itself_and_nothing_kept_is_an_error(
    corpus: Corpus, tiny: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    itself = {"kind": "synthesise", "recipe": recipe(), "tutor": "self", "limit": 5}
    final, (_, found) = run(stages_of([_TAUGHT[1], itself]), tiny, corpus.directory, tmp_path)
    row = json.loads(made(found, tmp_path).splitlines()[0])
    assert (row["provenance"]["tutor"], found.after["seeds"]) == (final.directory.name, 5)
    nothing = recipe(filters=[{"kind": "length", "of": "answer", "shortest": 900}])
    monkeypatch.setattr("trainer.sandbox.outside._shuts", lambda: False)
    coded = itself | {"recipe": recipe(filters=[{"kind": "code", "of": "answer"}])}
    with pytest.raises(SandboxError):
        run(stages_of([_TAUGHT[1], coded]), tiny, corpus.directory, tmp_path)
    assert len(list(tmp_path.glob("*/synthesis"))) == 1  # nobody was asked
    with pytest.raises(SynthesisError, match=r"none of 10 answers passed .*: .*length answer removed"):
        run(stages_of([_TAUGHT[1], itself | {"recipe": nothing}]), tiny, corpus.directory, tmp_path)


def test_stages_that_do_not_go_together_are_refused_before_any(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    for asked, words in (
        ([_TAUGHT[1], {"kind": "sft"}], "stage 2, sft, needs conversations"),
        ([_TAUGHT[1], {"kind": "synthesise", "recipe": recipe()}], "stage 2, synthesise, needs a teacher"),
        ([_TAUGHT[1], {"kind": "sft", "of": "teacher", "data": "a.jsonl"}], "stage 2, sft, needs a teacher"),
    ):
        with pytest.raises(CheckpointError, match=words):
            run(stages_of(asked), tiny, corpus.directory, tmp_path)
    assert not list(tmp_path.iterdir())
