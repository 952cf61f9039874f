import json
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from trainer.architecture import Architecture
from trainer.cache import Cache
from trainer.data import Corpus
from trainer.errors import CheckpointError, CorpusError, Interrupted
from trainer.model import HybridLM
from trainer.pipeline import AnyStage, default_stages, run
from trainer.pretrain import Pretrain, Teacher, widened
from trainer.proxy import score
from trainer.qat import Qat

_SMALL = {"batch": 4, "sequence": 32}


def _stages() -> list[Teacher | Pretrain | Qat]:
    return [
        Teacher(tokens=2_560, **_SMALL),
        Pretrain(tokens=3_840, learning_rate=1e-2, **_SMALL),
        Qat(tokens=2_560, masters="bfloat16", scales="learned", **_SMALL),
    ]


def test_the_stages_improve_the_model_and_are_not_done_twice(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    heard: list[tuple[int, int, int]] = []
    final, outcomes = run(
        _stages(),
        tiny,
        corpus.directory,
        tmp_path,
        report=lambda *told: heard.append(told[:3]),
    )
    assert [outcome.stage for outcome in outcomes] == ["teacher", "pretrain", "qat"]
    for outcome in outcomes:
        assert outcome.after["bits_per_byte"] < outcome.before["bits_per_byte"]
        assert outcome.seconds > 0
    assert outcomes[0].parameters > outcomes[1].parameters == tiny.parameters
    assert final.directory == tmp_path / outcomes[2].checkpoint
    assert final.model().architecture == tiny
    assert heard[-1] == (2, 2_560, 2_560)

    heard.clear()
    again, same = run(
        _stages(),
        tiny,
        corpus.directory,
        tmp_path,
        report=lambda *told: heard.append(told[:3]),
    )
    assert (again, same, heard) == (final, outcomes, [])
    changed = [*_stages()[:2], Qat(tokens=1_280, **_SMALL)]
    _, other = run(changed, tiny, corpus.directory, tmp_path)
    assert other[:2] == outcomes[:2]
    assert other[2] != outcomes[2]


def test_a_pipeline_stopped_anywhere_carries_on_to_the_same_bits(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    whole, _ = run(_stages(), tiny, corpus.directory, tmp_path / "whole")
    stops = 0
    while True:
        asked = iter([False] * 13 + [True] * 9)
        try:
            final, _ = run(
                _stages(), tiny, corpus.directory, tmp_path / "parts", should_stop=lambda asked=asked: next(asked)
            )
        except Interrupted:
            stops += 1
            continue
        break
    assert stops >= 3
    assert final.directory.name == whole.directory.name


def test_pretraining_goes_on_from_a_checkpoint(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    stages = [Pretrain(tokens=5_120, learning_rate=2e-2, batch=4, sequence=32)]
    first, (begun,) = run(stages, tiny, corpus.directory, tmp_path / "first")
    _, (gone_on,) = run(stages, tiny, corpus.directory, tmp_path / "second", start=first)
    assert gone_on.before == begun.after
    assert gone_on.after["bits_per_byte"] < begun.after["bits_per_byte"]


def test_qat_beats_rounding_after_training(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    stages = [Pretrain(tokens=12_800, learning_rate=2e-2, **_SMALL), Qat(tokens=5_120, **_SMALL)]
    _, outcomes = run(stages, tiny, corpus.directory, tmp_path)
    qat = outcomes[1]
    assert qat.before["full_precision_bits_per_byte"] < qat.before["bits_per_byte"]
    assert qat.after["bits_per_byte"] < qat.before["bits_per_byte"]


def test_a_pipeline_that_cannot_work_says_why(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model to quantise"):
        run([Qat(tokens=128, **_SMALL)], tiny, corpus.directory, tmp_path)
    with pytest.raises(CheckpointError, match="no stage trained a model"):
        run([], tiny, corpus.directory, tmp_path)
    other = tiny.model_copy(update={"vocab_size": 301})
    with pytest.raises(CorpusError, match="vocabulary of 300"):
        run(_stages(), other, corpus.directory, tmp_path)


def test_stages_travel_as_json() -> None:
    stages = default_stages(0.5)
    plain = json.loads(TypeAdapter(list[AnyStage]).dump_json(stages))
    assert [stage["kind"] for stage in plain] == ["teacher", "pretrain", "qat"]
    assert TypeAdapter(list[AnyStage]).validate_python(plain) == stages
    assert stages[1].tokens == Pretrain().tokens // 2


def test_a_teacher_is_wider_and_otherwise_the_same(tiny: Architecture) -> None:
    wide = widened(tiny, 2)
    assert (wide.width, wide.ffn_width, wide.depth) == (64, 128, tiny.depth)
    assert [type(block) for block in wide.blocks] == [type(block) for block in tiny.blocks]
    assert wide.parameters > 2 * tiny.parameters


def test_the_proxy_is_deterministic_and_learns(corpus: Corpus, tiny: Architecture) -> None:
    found = score(tiny, corpus.directory, tokens=10_000, sequence=32)
    assert found == score(tiny, corpus.directory, tokens=10_000, sequence=32)
    assert found[1] == pytest.approx(10_000, rel=0.05)
    assert found[0] < score(tiny, corpus.directory, tokens=2_000, sequence=32)[0]
    with pytest.raises(CorpusError, match="vocabulary"):
        score(tiny.model_copy(update={"vocab_size": 400}), corpus.directory)


def test_a_cache_has_the_bytes_it_was_made_for(tiny: Architecture) -> None:
    cache = Cache(tiny, capacity=10)
    HybridLM(tiny)(torch.zeros(1, 4, dtype=torch.int64), cache=cache)
    assert cache.length == 4
