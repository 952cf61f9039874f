"""Checkpoints: directories that are there whole or not at all.

A sealed one is a finished model: model.safetensors, architecture.json, where Lfm2 can express it a Hugging Face
config.json, the tokenizer with its configuration, the chat template where the model came with one of its own, and what
quantisation made of the model (`trainer.packed`). A rolling one is where a training stands, in the shards of its ranks
(`trainer.shards`). All randomness of training is a function of seed and step, so the step is all there is to save of
it.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from trainer.architecture import Architecture
from trainer.chat import OwnTemplate
from trainer.errors import CheckpointError, StorageFull, UnsupportedArchitecture
from trainer.files import fresh_draft, fsync_directory, fsync_file, is_full, remove_drafts, write_text
from trainer.interop import load_folder, load_weights, to_config, tokenizer_config, weights
from trainer.model import HybridLM
from trainer.packed import read_packing, tensors, write_packing
from trainer.quantise import Packing
from trainer.ranks import Ranks
from trainer.shards import Shards, write_shards
from trainer.tokenizer import end_of_text, load_tokenizer, require_fit

_WEIGHTS, _ARCHITECTURE, _TOKENIZER, _SUMS = "model.safetensors", "architecture.json", "tokenizer.json", "sha256.json"
_COPY = "copy it again, or train it again"


@dataclass(frozen=True)
class Quantised:
    """What quantisation made of a model, and for people how it was found."""

    packing: Packing
    found: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    directory: Path

    @property
    def architecture(self) -> Architecture:
        """What its model is.

        Raises:
            CheckpointError: there is no checkpoint, or it is damaged.
        """
        try:
            return Architecture.model_validate_json((self.directory / _ARCHITECTURE).read_text())
        except (OSError, ValidationError, UnicodeDecodeError) as wrong:
            raise CheckpointError(f"{self.directory} is not a checkpoint: {wrong}", advice="check the path") from wrong

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer its model was trained with.

        Raises:
            TokenizerError: it is damaged.
        """
        return load_tokenizer(self.directory / _TOKENIZER)

    def model(self) -> HybridLM:
        """The model, in evaluation mode.

        Raises:
            CheckpointError: there is no checkpoint, or it is damaged.
        """
        model = HybridLM(self.architecture)
        self._verify()
        load_weights(model, [self.directory / _WEIGHTS])
        return model.eval()

    def weights(self) -> Path:
        """Where its model.safetensors is, found whole.

        Raises:
            CheckpointError: there is no checkpoint, or it is damaged.
        """
        self._verify()
        return self.directory / _WEIGHTS

    def packing(self) -> Packing | None:
        """The integers that this model is deployed with, where quantisation made some.

        Raises:
            CheckpointError: they are damaged, or another model's.
        """
        self._verify()
        found = read_packing(self.directory)
        if found is None:
            return None
        found[0].check(self.architecture)
        return found[0]

    def _verify(self) -> None:
        """Raise CheckpointError unless every file is as it was written: a flipped bit of a weight still loads."""
        sums = self.directory / _SUMS
        if not sums.exists():
            return  # an older version did not write them
        try:
            damaged = [name for name, sum_ in json.loads(sums.read_text()).items() if self._sum(name) != sum_]
        except (OSError, ValueError, AttributeError) as wrong:
            raise CheckpointError(f"{self.directory} cannot be read: {wrong}", advice=_COPY) from wrong
        if damaged:
            raise CheckpointError(f"{self.directory}: {', '.join(damaged)} changed since it was written", advice=_COPY)

    def _sum(self, name: str) -> str:
        with (self.directory / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Rolling:
    """The latest state of a training, of all its ranks. The previous one goes when the new one is whole."""

    def __init__(self, directory: Path, ranks: Ranks | None = None) -> None:
        self.directory = directory
        self._ranks = ranks or Ranks.alone()

    def latest(self) -> Shards | None:
        """The one that was saved last; verified.

        Raises:
            CheckpointError: it is damaged.
        """
        saved = self._ranks.once(self._saved)
        return Shards(saved[-1], self._ranks) if saved else None

    def save(self, tensors: Mapping[str, Tensor], step: int, notes: Mapping[str, Any]) -> None:
        """Save `tensors`, sharded or not, and `notes` as JSON; then remove what is older.

        Raises:
            StorageFull: the disk is full; the previous one is untouched.
            CheckpointError: the disk refuses.
        """
        previous = self._ranks.once(self._saved)
        # Numbered by saves, not by steps: a training that was rolled back comes by a step again.
        number = int(previous[-1].name.split("-")[0]) + 1 if previous else 0
        target = self.directory / f"{number:06d}-step-{step}"
        draft: Path | None = None
        try:
            draft = self._ranks.once(lambda: self._draft(target))
            write_shards(tensors, notes, draft, self._ranks)
            self._ranks.once(lambda: _publish(draft, target))
        except OSError as wrong:
            raise _unwritable(target, draft, sum(tensor.nbytes for tensor in tensors.values()), wrong) from wrong
        if self._ranks.first:
            for old in previous:
                shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Remove all of it: the training is over and its result lies elsewhere."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _saved(self) -> list[Path]:
        return sorted(self.directory.glob("*-step-*[0-9]"))

    def _draft(self, target: Path) -> Path:
        remove_drafts(self.directory)  # whoever was killed may come by another step next time
        return fresh_draft(target)


def seal(
    model: HybridLM,
    parent: Path,
    tokenizer: Tokenizer,
    quantisation: Quantised | None = None,
    *,
    template: OwnTemplate | None = None,
) -> Checkpoint:
    """Keep a finished model under `parent`, named by the sha256 of its content; the same content again costs nothing.

    `template` is the chat template that it speaks, where that is not the plain one.

    Raises:
        StorageFull: the disk is full.
        CheckpointError: it refuses.
    """
    digest = hashlib.sha256(model.architecture.hash.encode())
    digest.update(tokenizer.to_str().encode())
    if template is not None:
        digest.update(template.identity().encode())
    stored = weights(model)
    if quantisation is not None:
        digest.update(quantisation.packing.scheme.model_dump_json().encode())
        stored = stored | tensors(quantisation.packing)
    for name, tensor in sorted(stored.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().view(torch.uint8).numpy().tobytes())
    target = parent / digest.hexdigest()
    if not target.exists():
        _write(model, target, tokenizer, quantisation, template)
    return Checkpoint(target)


def gathered(folder: Path, parent: Path) -> Checkpoint:
    """A checkpoint of ours, or a Hugging Face folder of an Lfm2 model with its tokenizer.json, sealed under `parent`.

    Its chat template goes along.

    Raises:
        ChatError: its chat template cannot be read.
        CheckpointError: neither of them, damaged, or weights that do not fit their architecture.
        UnsupportedArchitecture: an Lfm2 that ours cannot be.
        TokenizerError: there is none, it is damaged, or it does not fit the model.
    """
    if (folder / _ARCHITECTURE).exists() or not (folder / "config.json").exists():
        model = Checkpoint(folder).model()
    else:
        model = load_folder(folder)
    tokenizer = load_tokenizer(folder / _TOKENIZER)
    require_fit(tokenizer, model.architecture.vocab_size)
    return seal(model, parent, tokenizer, template=OwnTemplate.of(folder))


def _write(
    model: HybridLM,
    target: Path,
    tokenizer: Tokenizer,
    quantisation: Quantised | None,
    template: OwnTemplate | None,
) -> None:
    stored, draft = weights(model), None
    try:
        draft = fresh_draft(target)
        save_file(stored, draft / _WEIGHTS, metadata={"format": "pt"})
        fsync_file(draft / _WEIGHTS)
        if quantisation is not None:
            write_packing(quantisation.packing, quantisation.found, draft)
        write_text(draft / _ARCHITECTURE, model.architecture.model_dump_json(indent=2))
        write_text(draft / _TOKENIZER, tokenizer.to_str())
        end = end_of_text(tokenizer)
        write_text(draft / "tokenizer_config.json", tokenizer_config(tokenizer.to_str(), end))
        if template is not None:
            template.write(draft)
        _describe_for_hugging_face(model.architecture, draft, end)
        written = Checkpoint(draft)
        sums = {path.name: written._sum(path.name) for path in sorted(draft.iterdir())}
        write_text(draft / _SUMS, json.dumps(sums, indent=2))
        fsync_directory(draft)
        _publish(draft, target)
    except (OSError, SafetensorError, RuntimeError) as wrong:
        raise _unwritable(target, draft, sum(tensor.nbytes for tensor in stored.values()), wrong) from wrong


def _publish(draft: Path, target: Path) -> None:
    if target.exists():  # another process was faster with the same content
        shutil.rmtree(draft)
        return
    draft.rename(target)
    fsync_directory(target.parent)


def _unwritable(target: Path, draft: Path | None, needed: int, wrong: Exception) -> CheckpointError:
    """What to raise when `target` could not be written; the draft is removed first, whose room is free again."""
    if draft is not None:
        shutil.rmtree(draft, ignore_errors=True)
    kept = "start again: what was saved before is whole"
    if not is_full(wrong):
        return CheckpointError(f"{target} cannot be written: {wrong}", advice=f"mend the disk and {kept}")
    there = next(folder for folder in target.absolute().parents if folder.exists())
    mount = next(folder for folder in (there, *there.parents) if folder.is_mount())
    free = shutil.disk_usage(there).free
    return StorageFull(
        f"{target} needs {_size(needed)}, and the file system at {mount} has {_size(free)} free",
        advice=f"free some space and {kept}",
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _describe_for_hugging_face(architecture: Architecture, folder: Path, end: int) -> None:
    try:
        config = to_config(architecture, end_of_text=end)
    except UnsupportedArchitecture:
        return  # architecture.json says it all; only transformers cannot load this one
    write_text(folder / "config.json", json.dumps(config, indent=2))
