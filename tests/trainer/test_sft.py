"""The stage sft: it learns what answers are, averages over what counts, and carries on where it was stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from together import together

from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint
from trainer.data import Batch, Corpus
from trainer.dialogues import Dialogues
from trainer.engine import Run, hard_labels, train
from trainer.errors import CheckpointError, CorpusError, Interrupted
from trainer.model import HybridLM
from trainer.pipeline import run, stages_of
from trainer.pretrain import Pretrain
from trainer.ranks import Ranks
from trainer.recipe import Recipe
from trainer.sft import Chats, Sft, answered

_RECIPE = Recipe(tokens=8 * 64 * 3, batch=8, sequence=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows with very different counts of answers: short questions of long ones, and the other way round."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    asked = [(f"{n}?", f"{n}!" * (1 + n % 9)) if n % 2 else ("why " * (n % 7) + f"{n}", "y") for n in range(120)]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in asked]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def base(corpus: Corpus, tiny: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    found, _ = run([Pretrain(tokens=2_560, batch=4, sequence=32)], tiny, corpus.directory, tmp_path_factory.mktemp("b"))
    return found


def _chats(corpus: Corpus, path: Path, replay: float = 0.0) -> Chats:
    return Chats(corpus, Dialogues.open(path, corpus.tokenizer), replay)


def _trained(
    ranks: Ranks, corpus: Path, chats: Path, tiny: Architecture, recipe: Recipe, replay: float
) -> tuple[list[float], object]:
    losses: list[float] = []
    model = HybridLM(tiny, seed=4)
    heard = Run(ranks=ranks, report=lambda done, total, metrics: losses.append(metrics["loss"]))
    read = _chats(Corpus.open(corpus), chats, replay)
    train(model, read, recipe, read.loss, heard)
    return losses, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _with_and_without_replay(ranks: Ranks, *given: Any) -> list[tuple[list[float], object]]:
    return [_trained(ranks, *given, replay) for replay in (0.0, 0.3)]


def test_micro_batches_and_ranks_take_the_mean_over_what_counts_of_the_whole_batch(
    corpus: Corpus, chats: Path, tiny: Architecture
) -> None:
    given = (corpus.directory, chats, tiny)
    read = _chats(corpus, chats).batch(0, size=8, sequence=64, seed=0)
    counts = (read.targets >= 0).sum(1)
    assert counts.max() > 1.5 * counts.min()  # so that a mean of means would be another number
    whole = _with_and_without_replay(Ranks.alone(), *given, _RECIPE)
    few = _RECIPE.model_copy(update={"micro_batch": 2})
    others = [_with_and_without_replay(Ranks.alone(), *given, few)]
    others += together(2, _with_and_without_replay, *given, few)
    for each in others:
        for (losses, weights), (other, found) in zip(whole, each, strict=True):
            assert other == pytest.approx(losses, rel=2e-5)
            for name, weight in weights.items():
                assert found[name] == pytest.approx(weight, abs=3e-4), name


def test_a_part_without_answers_adds_nothing(corpus: Corpus, tiny: Architecture) -> None:
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    loss = hard_labels(HybridLM(tiny), Batch(tokens, torch.full_like(tokens, -100), None, tokens[:, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0


def test_the_stage_learns_resumes_to_the_same_bits_and_knows_its_data(
    corpus: Corpus, base: Checkpoint, tiny: Architecture, chats: Path, tmp_path: Path
) -> None:
    options = {"epochs": 6, "batch": 4, "sequence": 64, "learning_rate": 1e-2, "order": "given", "replay": 0.25}
    (stage,) = stages_of([{"kind": "sft", "data": str(chats), **options}])
    given = ([stage], tiny, corpus.directory)
    whole, (outcome,) = run(*given, tmp_path / "whole", start=base)
    assert outcome.after["answers/nats"] < 0.7 * outcome.before["answers/nats"]
    assert outcome.after["answers/accuracy"] > outcome.before["answers/accuracy"]
    assert outcome.after["data/conversations"] + outcome.after["data/held_out"] == 120
    assert {"bits_per_byte", "answers/exact"} <= outcome.before.keys() & outcome.after.keys()
    _, (forgetful,) = run([stage.model_copy(update={"replay": 0.0})], *given[1:], tmp_path / "without", start=base)
    assert forgetful.tokens == pytest.approx(0.75 * outcome.tokens, abs=4 * 64)  # epochs count conversations
    assert outcome.after["bits_per_byte"] < forgetful.after["bits_per_byte"]

    stops = 0
    while True:
        asked = iter([False] * 10 + [True] * 9)
        try:
            parts, _ = run(*given, tmp_path / "parts", start=base, should_stop=lambda asked=asked: next(asked))
        except Interrupted:
            stops += 1
            continue
        break
    assert stops >= 1
    assert parts.directory.name == whole.directory.name

    heard: list[int] = []
    run(*given, tmp_path / "whole", start=base, report=lambda *told: heard.append(told[1]))
    assert not heard
    chats.write_text(chats.read_text().replace("why", "who"))
    run(*given, tmp_path / "whole", start=base, report=lambda *told: heard.append(told[1]))
    assert heard


def test_exact_answers_are_those_that_greedy_decoding_gives(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    """A model that was taught two of four answers by heart is exact on those two."""
    path = tmp_path / "four.jsonl"
    said = [("a", "xyz"), ("b", "q"), ("a a a", "never said"), ("b b b", "nor this")]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in said]
    path.write_text("\n".join(map(json.dumps, rows[:2])))
    taught, model = _chats(corpus, path), HybridLM(tiny)
    train(model, taught, Recipe(tokens=40 * 64, batch=1, sequence=64, learning_rate=2e-2), hard_labels, Run())
    path.write_text("\n".join(map(json.dumps, rows)))
    found = answered(model, Dialogues.open(path, corpus.tokenizer), 64)
    assert found["answers/exact"] == 0.5
    assert 0 < found["answers/accuracy"] < 1


def test_what_cannot_be_trained_on_says_why(
    corpus: Corpus, base: Checkpoint, tiny: Architecture, tmp_path: Path
) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text("")
    with pytest.raises(CheckpointError, match="no model to train on chats"):
        run([Sft(data=(path,))], tiny, corpus.directory, tmp_path)
    with pytest.raises(CorpusError, match="cannot be read"):
        run([Sft(data=(tmp_path / "none",))], tiny, corpus.directory, tmp_path, start=base)
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}')
    with pytest.raises(CorpusError, match="of 1 conversations"):
        run([Sft(data=(path,), held_out=0.5)], tiny, corpus.directory, tmp_path, start=base)
