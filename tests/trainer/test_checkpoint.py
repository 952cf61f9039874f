"""Checkpoints of both kinds: whole or not there, whatever is done to the disk and to their files."""

import subprocess
from pathlib import Path

import pytest
import torch

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint, Rolling, seal
from trainer.data import Corpus
from trainer.engine import Run, hard_labels, train
from trainer.errors import CheckpointError, StorageFull, TokenizerError
from trainer.files import fresh_draft
from trainer.model import HybridLM
from trainer.recipe import Recipe

_STATE = {"weights": torch.arange(600.0).view(20, 30), "moments": torch.ones(500, dtype=torch.bfloat16)}


def _same(one: HybridLM, other: HybridLM) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_latest_state_is_kept_and_no_other(tmp_path: Path) -> None:
    rolling = Rolling(tmp_path)
    assert rolling.latest() is None
    for step in (7, 9, 8):  # a training that was rolled back comes by a lower step later
        rolling.save(_STATE | {"weights": _STATE["weights"] + step}, step, {"step": step})
    latest = rolling.latest()
    assert latest is not None
    assert latest.notes == {"step": 8}
    found = {name: torch.zeros_like(tensor) for name, tensor in _STATE.items()}
    latest.fill(found)
    assert torch.equal(found["weights"], _STATE["weights"] + 8)
    assert torch.equal(found["moments"], _STATE["moments"])
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    draft = fresh_draft(tmp_path / "000000-step-1")
    dead = draft.rename(draft.with_name(f".000000-step-1.{child.pid}.draft"))
    (dead / "__0_0.distcp").write_bytes(b"half")
    assert Rolling(tmp_path).latest() is None
    Rolling(tmp_path).save(_STATE, 5, {})
    assert [path.name for path in tmp_path.iterdir()] == ["000000-step-5"]


def test_a_disk_that_fills_leaves_the_previous_checkpoint_whole(
    corpus: Corpus, tiny: Architecture, small_disk: Path
) -> None:
    recipe = Recipe(tokens=4 * 32 * 6, batch=4, sequence=32, learning_rate=1e-2)
    calm, disturbed = (HybridLM(tiny, seed=2) for _ in range(2))
    train(calm, corpus, recipe, hard_labels, Run())
    rolling = Rolling(small_disk / "rolling")

    def fills(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 3 * 4 * 32:  # two steps are saved: from now on there is room for a tenth of a checkpoint
            free = small_disk.joinpath("other").open("wb")
            with pytest.raises(OSError, match="No space left"), free:
                free.write(bytes(1 << 20))
            with small_disk.joinpath("other").open("r+b") as other:
                other.truncate(other.seek(0, 2) - 40_000)

    with pytest.raises(StorageFull) as full:
        train(disturbed, corpus, recipe, hard_labels, Run(rolling, report=fills, save_seconds=0))
    assert f"needs 0.4 MB, and the file system at {small_disk} has 0.0 MB free" in full.value.message
    assert "free some space" in full.value.advice
    latest = rolling.latest()
    assert latest is not None
    assert latest.notes["step"] == 2
    assert len(list(rolling.directory.iterdir())) == 1  # nothing of what did not fit lies about
    with pytest.raises(StorageFull):
        seal(disturbed, small_disk, corpus.tokenizer)
    (small_disk / "other").unlink()
    again = HybridLM(tiny, seed=2)
    train(again, corpus, recipe, hard_labels, Run(rolling, save_seconds=0))
    assert _same(calm, again)


def test_sealed_checkpoints_are_named_by_content(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    model = HybridLM(tiny, seed=2)
    sealed = seal(model, tmp_path, corpus.tokenizer)
    assert seal(HybridLM(tiny, seed=2), tmp_path, corpus.tokenizer) == sealed
    assert seal(HybridLM(tiny, seed=3), tmp_path, corpus.tokenizer) != sealed
    assert _same(sealed.model(), model)
    assert sealed.tokenizer.to_str() == corpus.tokenizer.to_str()
    assert (sealed.directory / "config.json").is_file()


def test_what_transformers_cannot_express_is_still_kept(corpus: Corpus, tmp_path: Path) -> None:
    blocks = (ShortConv(kernel=3), ShortConv(kernel=4), Attention(heads=2, kv_heads=1, head_dim=16))
    model = HybridLM(Architecture(vocab_size=300, width=32, ffn_width=64, blocks=blocks))
    sealed = seal(model, tmp_path, corpus.tokenizer)
    assert not (sealed.directory / "config.json").exists()
    assert _same(sealed.model(), model)


def test_foreign_states_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint(tmp_path / "nowhere").model()
    rolling = Rolling(tmp_path)
    rolling.save(_STATE, 1, {})
    latest = rolling.latest()
    assert latest is not None
    with pytest.raises(CheckpointError, match=r"another architecture: weights is \[20, 30\], not \[20, 31\]"):
        latest.fill({"weights": torch.zeros(20, 31)})
    with pytest.raises(CheckpointError, match="another architecture: other is missing"):
        latest.fill({"other": torch.zeros(1)})


def _damage(file: Path, damage: str) -> None:
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file.write_bytes({"empty": b"", "cut": whole[:middle], "flipped": flipped}[damage])


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_any_damage_is_noticed(corpus: Corpus, tiny: Architecture, tmp_path: Path, damage: str) -> None:
    rolling = Rolling(tmp_path / "rolling")
    for name in ("__0_0.distcp", ".metadata", "notes.json", "sha256.json"):
        rolling.save(_STATE, 1, {"step": 1})
        (kept,) = rolling.directory.iterdir()
        _damage(kept / name, damage)
        with pytest.raises(CheckpointError) as refused:
            rolling.latest()
        assert "delete it" in refused.value.advice
        rolling.clear()
    for name in ("model.safetensors", "tokenizer.json", "sha256.json"):
        sealed = seal(HybridLM(tiny), tmp_path / name, corpus.tokenizer)
        _damage(sealed.directory / name, damage)
        with pytest.raises(CheckpointError) as refused:
            sealed.model()
        assert "copy it again" in refused.value.advice


def test_a_checkpoint_without_sums_is_still_read_and_its_damage_named(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    sealed = seal(HybridLM(tiny, seed=2), tmp_path, corpus.tokenizer)
    (sealed.directory / "sha256.json").unlink()
    assert _same(sealed.model(), HybridLM(tiny, seed=2))
    for cut in (b"", b"cut"):
        (sealed.directory / "model.safetensors").write_bytes(cut)
        with pytest.raises(CheckpointError, match="cannot be read"):
            sealed.model()
    (sealed.directory / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError):
        _ = sealed.tokenizer
