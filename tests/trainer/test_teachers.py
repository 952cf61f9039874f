import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, normalizers

from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint, seal
from trainer.data import Corpus
from trainer.distil import TopK, decoupled_top_k
from trainer.errors import Interrupted, TeacherError
from trainer.model import HybridLM
from trainer.pipeline import run
from trainer.pretrain import Pretrain
from trainer.teachers.cache import Plan, TeacherCache, teach
from trainer.teachers.codec import decode, encode
from trainer.teachers.folder import identity, open_teacher
from trainer.teachers.tokenizers import require_same

_K, _SEQUENCE = 8, 32


@pytest.fixture(scope="module")
def checkpoint(corpus: Corpus, tiny: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A teacher that has an opinion: its logits are spread as a trained model's are."""
    model = HybridLM(tiny, seed=4)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(6)
        model.model.embedding_norm.weight.fill_(1)  # narrow models begin louder
    return seal(model, tmp_path_factory.mktemp("teacher"), corpus.tokenizer)


def _plan(corpus: Corpus, checkpoint: Checkpoint) -> Plan:
    key, teacher = corpus.meta["key"], identity(checkpoint.directory)
    return Plan(corpus=key, teacher=teacher, vocab_size=300, sequence=_SEQUENCE, seed=0, top_k=_K)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    spread=st.floats(0.01, 30),
    positions=st.integers(1, 40),
    k=st.integers(1, 40),
    largest=st.sampled_from([40, 300, 70_000]),
)
def test_what_is_kept_of_a_window_is_within_the_stated_bounds(
    seed: int, spread: float, positions: int, k: int, largest: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, positions, 40, generator=generator) * spread
    plain = TopK.of(teacher, k)
    wide = torch.randint(0, largest, (40,), generator=generator)[plain.ids]  # ids of a larger vocabulary
    kept = decode(encode(plain._replace(ids=wide)), positions, k)
    assert torch.equal(kept.ids, wide)
    distance = -plain.logits
    bound = torch.where(distance < 31.6, distance.sqrt() / 45 + 2e-4, (distance - 31.6).clamp(min=0.2))
    assert bool(((kept.logits - plain.logits).abs() <= bound).all())
    assert torch.allclose(kept.odds.sigmoid(), plain.odds.sigmoid(), atol=3e-6)
    # What the loss becomes, where teachers are: it moves by less than the error of the logarithms.
    if spread < 2 and k < 40:
        for one, other in zip(
            decoupled_top_k(student, *plain, temperature=2.0),
            decoupled_top_k(student, *kept._replace(ids=plain.ids), temperature=2.0),
            strict=True,
        ):
            assert abs((one - other).item()) < 0.02 * max(1.0, one.item())


def test_a_cache_tells_what_its_teacher_does(corpus: Corpus, checkpoint: Checkpoint, tmp_path: Path) -> None:
    teacher = open_teacher(checkpoint.directory, corpus)
    heard: list[int] = []
    plan = _plan(corpus, checkpoint)
    cache = teach(
        teacher,
        corpus,
        tmp_path / "c",
        plan,
        windows=21,
        shard_tokens=8 * _SEQUENCE,
        report=lambda *t: heard.append(t[0]),
    )
    assert heard[-1] == 21
    assert len(cache.manifest.shards) == 3
    for size in (1, 3, 4):  # by the windows' numbers, so students may take any batch
        for step in range(21 // size):
            batch = corpus.batch(step, size=size, sequence=_SEQUENCE, seed=0)
            live, kept = teacher.top_k(batch, _K), cache.top_k(batch, _K)
            same = live.ids == kept.ids  # ties of logits may be broken in another order
            assert same.float().mean() > 0.999
            assert (live.logits - kept.logits).abs().max() < 0.09
            assert (live.odds - kept.odds).abs().max() < 1e-4
    assert torch.equal(cache.top_k(batch, 3).ids, cache.top_k(batch, _K).ids[..., :3])
    assert 1 < cache.bytes_per_token < 5 * _K + 4
    with pytest.raises(TeacherError, match="covers 21 windows"):
        cache.top_k(replace(batch, indices=torch.tensor([0, 1, 2, 21])), _K)


def test_a_cache_killed_anywhere_is_carried_on_to_the_same_bytes(
    corpus: Corpus, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    teacher, plan = open_teacher(checkpoint.directory, corpus), _plan(corpus, checkpoint)

    def fill(folder: Path, kill_at: int = -1, stop_at: int = -1) -> TeacherCache:
        reached: list[int] = []

        def report(done: int, total: int) -> None:
            reached.append(done)
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def stop() -> bool:
            return reached[-1] == stop_at

        return teach(
            teacher,
            corpus,
            folder,
            plan,
            windows=30,
            batch=2,
            shard_tokens=8 * _SEQUENCE,
            report=report,
            should_stop=stop,
        )

    def content(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    fill(tmp_path / "whole")
    for kill_at in (2, 8, 14, 28):
        child = os.fork()
        if not child:
            fill(tmp_path / "killed", kill_at=kill_at)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    fill(tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")

    with pytest.raises(Interrupted, match="10 of 30"):
        fill(tmp_path / "stopped", stop_at=10)
    assert TeacherCache.open(tmp_path / "stopped").manifest.windows == 10
    grown = fill(tmp_path / "stopped")
    batch = corpus.batch(0, size=30, sequence=_SEQUENCE, seed=0)
    whole = TeacherCache.open(tmp_path / "whole").top_k(batch, _K)
    assert all(torch.equal(one, other) for one, other in zip(grown.top_k(batch, _K), whole, strict=True))


def test_caches_that_do_not_fit_or_changed_are_refused(corpus: Corpus, checkpoint: Checkpoint, tmp_path: Path) -> None:
    teacher, plan = open_teacher(checkpoint.directory, corpus), _plan(corpus, checkpoint)
    cache = teach(teacher, corpus, tmp_path / "c", plan, windows=4)
    cache.require(plan.model_copy(update={"top_k": 3}), 4)
    for change in ({"corpus": "another"}, {"teacher": "another"}, {"sequence": 64}, {"seed": 1}, {"top_k": _K + 1}):
        other = plan.model_copy(update=change)
        with pytest.raises(TeacherError, match=f"another {next(iter(change))}"):
            cache.require(other, 4)
        with pytest.raises(TeacherError, match=f"another {next(iter(change))}"):
            teach(teacher, corpus, tmp_path / "c", other, windows=4)
    with pytest.raises(TeacherError, match="covers 4 windows"):
        cache.require(plan, 5)
    (shard,) = (tmp_path / "c").glob("*.bin")
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    with pytest.raises(TeacherError, match="changed since it was written"):
        TeacherCache.open(tmp_path / "c").top_k(corpus.batch(0, size=1, sequence=_SEQUENCE, seed=0), _K)
    (tmp_path / "c" / "teacher-cache.json").write_text("{")
    with pytest.raises(TeacherError, match="not a teacher's cache"):
        open_teacher(tmp_path / "c", corpus)


def test_a_full_disk_leaves_whole_shards(
    corpus: Corpus, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, plan = open_teacher(checkpoint.directory, corpus), _plan(corpus, checkpoint)
    teach(teacher, corpus, tmp_path / "c", plan, windows=4)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("trainer.teachers.cache.os.fsync", full)
        with pytest.raises(TeacherError, match="No space left"):
            teach(teacher, corpus, tmp_path / "c", plan, windows=8)
    assert TeacherCache.open(tmp_path / "c").manifest.windows == 4
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert teach(teacher, corpus, tmp_path / "c", plan, windows=8).manifest.windows == 8


def _changed(tokenizer: Tokenizer, change: str) -> Tokenizer:
    plain = json.loads(tokenizer.to_str())
    vocabulary = plain["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
    if change == "vocabulary":
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    if change == "merges":
        plain["model"]["merges"][0], plain["model"]["merges"][1] = plain["model"]["merges"][1::-1]
    if change == "fewer merges":
        plain["model"]["merges"].pop()
    found: Tokenizer = Tokenizer.from_str(json.dumps(plain))
    if change == "special":
        found.add_special_tokens([AddedToken("<|endoftext|>", lstrip=True, special=True)])
    if change == "normaliser":
        found.normalizer = normalizers.NFC()
    if change == "lower case":
        found.normalizer = normalizers.Lowercase()
    if change == "added":
        found.add_special_tokens(["<|more|>"])
    return found


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("vocabulary", "vocabulary"),
        ("merges", "merge 0"),
        ("fewer merges", "merges"),
        ("special", "special token"),
        ("normaliser", "normaliser"),
        ("lower case", "normaliser"),
        ("added", r"'<\|more\|>' is id 300 to it and none"),
    ],
)
def test_teachers_of_another_tokenizer_are_refused(
    change: str, named: str, corpus: Corpus, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint.directory, tmp_path / "teacher")
    changed = _changed(corpus.tokenizer, change)
    (tmp_path / "teacher" / "tokenizer.json").write_text(changed.to_str())
    (tmp_path / "teacher" / "sha256.json").unlink()
    with pytest.raises(TeacherError, match=named):
        open_teacher(tmp_path / "teacher", corpus)


def test_a_tokenizer_described_otherwise_is_the_same(corpus: Corpus) -> None:
    plain = json.loads(corpus.tokenizer.to_str())
    plain["model"]["merges"] = [" ".join(pair) for pair in plain["model"]["merges"]]  # as older files have it
    plain["normalizer"] = {"type": "Sequence", "normalizers": []}
    plain["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    plain["post_processor"] = None
    require_same(Tokenizer.from_str(json.dumps(plain)), corpus.tokenizer, "the teacher")


def test_curves_from_a_cache_are_those_of_the_live_teacher_within_its_rounding(
    corpus: Corpus, checkpoint: Checkpoint, tiny: Architecture, tmp_path: Path
) -> None:
    """On the fly, cached by the stage, and from a cache made before: one curve, to a hundredth of a nat."""
    common = {"tokens": 1_280, "batch": 4, "sequence": _SEQUENCE, "learning_rate": 1e-2}
    plan = _plan(corpus, checkpoint).model_copy(update={"top_k": 32})
    made = tmp_path / "made"
    teach(open_teacher(checkpoint.directory, corpus), corpus, made, plan, windows=40)
    curves: list[list[float]] = []
    for given_ in (
        {"teacher": checkpoint.directory},
        {"teacher": checkpoint.directory, "cached": True},
        {"teacher": made},
    ):
        curve: list[float] = []
        run(
            [Pretrain.model_validate({**common, **given_})],
            tiny,
            corpus.directory,
            tmp_path / str(len(curves)),
            report=lambda index, done, total, metrics, curve=curve: curve.extend(
                [metrics["loss"]] if "loss" in metrics else []
            ),
        )
        curves.append(curve)
    live, cached, before = map(torch.tensor, curves)
    assert len(live) == 10
    assert torch.equal(cached, before)
    assert (live - cached).abs().max() < 0.01
    assert not torch.equal(live, cached)  # it is the cache that was read


def test_a_stage_says_why_its_teacher_cannot_teach(
    corpus: Corpus, checkpoint: Checkpoint, tiny: Architecture, tmp_path: Path
) -> None:
    common = {"tokens": 256, "batch": 4, "sequence": _SEQUENCE}
    with pytest.raises(ValidationError, match="need the teacher itself"):
        Pretrain(beta=0.5, cached=True)
    with pytest.raises(TeacherError, match="holds no"):
        run([Pretrain(teacher=tmp_path, **common)], tiny, corpus.directory, tmp_path / "run")
    plan = _plan(corpus, checkpoint)
    teach(open_teacher(checkpoint.directory, corpus), corpus, tmp_path / "c", plan, windows=8)
    with pytest.raises(TeacherError, match="top K alone"):
        run([Pretrain(teacher=tmp_path / "c", beta=0.5, **common)], tiny, corpus.directory, tmp_path / "run")
    with pytest.raises(TeacherError, match="another top_k: 8, not 32"):
        run([Pretrain(teacher=tmp_path / "c", **common)], tiny, corpus.directory, tmp_path / "run")
    long = {**common, "tokens": 512}
    spiky = {**common, "spikes": {"every": 1, "most": 1}}  # may pass over one batch, and read one more
    with pytest.raises(TeacherError, match="covers 8 windows of 32 tokens, not 12"):
        run([Pretrain(teacher=tmp_path / "c", top_k=8, **spiky)], tiny, corpus.directory, tmp_path / "run")
    with pytest.raises(TeacherError, match="covers 8 windows"):
        run([Pretrain(teacher=tmp_path / "c", top_k=8, **long)], tiny, corpus.directory, tmp_path / "run")


def test_a_student_of_whole_vocabularies_draws_near_its_teacher(
    corpus: Corpus, checkpoint: Checkpoint, tiny: Architecture, tmp_path: Path
) -> None:
    common = {"tokens": 1_280, "batch": 4, "sequence": _SEQUENCE, "learning_rate": 1e-2, "distillation": 1.0}
    for beta in (0.0, 0.5, 1.0):
        losses: list[float] = []
        stage = Pretrain.model_validate({**common, "teacher": checkpoint.directory, "beta": beta})
        run(
            [stage],
            tiny,
            corpus.directory,
            tmp_path / str(beta),
            report=lambda *told, losses=losses: losses.append(told[3]["loss"]),
        )
        assert losses[-1] < losses[0]
