"""The stage merge: a model of two specialists goes on where it beats both, and no kill trains one of them twice."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint
from trainer.data import Corpus
from trainer.errors import CorpusError, Interrupted
from trainer.pipeline import run, stages_of
from trainer.pretrain import Pretrain

_SAID = {"animals": "the fox sees a hen and runs away", "numbers": "seven and nine are sixteen"}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two distributions: whoever is asked of one says always the same."""
    folder = tmp_path_factory.mktemp("chats")
    for name, said in _SAID.items():
        asked = [
            [{"role": "user", "content": f"{name[0]} {n}"}, {"role": "assistant", "content": said}] for n in range(60)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"messages": messages}) for messages in asked))
    return {name: str(folder / f"{name}.jsonl") for name in _SAID}


@pytest.fixture(scope="module")
def base(corpus: Corpus, tiny: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    found, _ = run([Pretrain(tokens=2_560, batch=4, sequence=32)], tiny, corpus.directory, tmp_path_factory.mktemp("b"))
    return found


def merge(specialists: dict[str, Any], **changed: Any) -> list[Any]:
    usual = {"tokens": 2_048, "batch": 4, "sequence": 64, "held_out": 0.4, "evaluations": 5, "learning_rate": 1e-2}
    return stages_of(
        [{"kind": "merge", "specialists": specialists, "recipe": {"method": "linear"}, **usual, **changed}]
    )


def test_a_merge_that_beats_its_specialists_goes_on_whoever_is_killed(
    corpus: Corpus, base: Checkpoint, tiny: Architecture, chats: dict[str, str], tmp_path: Path
) -> None:
    given = (merge(chats), tiny, corpus.directory)
    heard: list[tuple[int, int]] = []
    final, (outcome,) = run(*given, tmp_path / "whole", start=base, report=lambda *told: heard.append(told[1:3]))
    before, after = outcome.before, outcome.after
    assert after["merge/won"] == 1
    assert after["nats"] == after["merge/nats"] < min(after["parent/animals"], after["parent/numbers"]) < before["nats"]
    assert after["nats"] == pytest.approx((after["nats/animals"] + after["nats/numbers"]) / 2)
    assert after["merge/animals"] + after["merge/numbers"] == pytest.approx(1)
    assert outcome.tokens == 2 * 2_048
    trained = [told for told in heard if told[1] == outcome.tokens]
    assert trained == [(256 * step, 4_096) for step in range(1, 17)]
    assert heard[len(trained) :] == [(tried, 5) for tried in range(1, 6)]

    def die(index: int, done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 3_072:  # in the middle of the second specialist
            os.kill(os.getpid(), signal.SIGKILL)

    parts = tmp_path / "parts"
    child = os.fork()
    if child == 0:
        run(*given, parts, start=base, report=die, save_seconds=0)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    heard.clear()
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted, match="search for weights"):
        run(*given, parts, start=base, report=lambda *told: heard.append(told[1:3]), should_stop=lambda: next(asked))
    assert heard[0][0] > 2_560  # nothing of the first, nor of what was saved of the second
    heard.clear()
    again, (same,) = run(*given, parts, start=base, report=lambda *told: heard.append(told[1:3]))
    assert [total for _, total in heard] == [5] * 5  # only the search is done again
    assert again.directory.name == final.directory.name
    assert same.after == outcome.after


def test_else_the_best_specialist_goes_on(
    corpus: Corpus, base: Checkpoint, tiny: Architecture, chats: dict[str, str], tmp_path: Path
) -> None:
    away = {"method": "task_arithmetic", "weights": [-1, -1]}  # from what they learnt
    final, (outcome,) = run(merge(chats, tokens=1_024, recipe=away), tiny, corpus.directory, tmp_path, start=base)
    after = outcome.after
    assert (after["merge/won"], after["merge/animals"]) == (0, -1)
    best = min(_SAID, key=lambda name: after[f"parent/{name}"])
    assert after["nats"] == after[f"parent/{best}"] < outcome.before["nats"] < after["merge/nats"]
    (kept,) = (json.loads(file.read_text()) for file in tmp_path.glob(f"*/specialist-{best}/outcome.json"))
    assert kept["checkpoint"] == str(final.directory.relative_to(tmp_path))


def test_what_cannot_be_merged_is_refused_before_anything_is_trained(
    corpus: Corpus, base: Checkpoint, tiny: Architecture, chats: dict[str, str], tmp_path: Path
) -> None:
    three = {**chats, "more": chats["animals"]}
    for specialists, changed, words in (
        ({"one": chats["animals"]}, {}, "at least 2 items"),
        ({**chats, "../up": chats["animals"]}, {}, "pattern"),
        ({**chats, "won": chats["animals"]}, {}, "called won"),
        ({**chats, "none": []}, {}, "none has no files"),
        (three, {"recipe": {"method": "slerp"}}, "exactly two"),
        (three, {"recipe": {"method": "linear", "weights": [1, 2]}}, "3 specialists and 2 weights"),
    ):
        with pytest.raises(ValidationError, match=words):
            merge(specialists, **changed)
    few = tmp_path / "few.jsonl"
    few.write_text(Path(chats["animals"]).read_text().splitlines()[0])
    with pytest.raises(CorpusError, match="of 1 conversations"):
        run(merge({**chats, "few": str(few)}), tiny, corpus.directory, tmp_path / "out", start=base)
    assert not list((tmp_path / "out").glob("*/specialist-*"))
