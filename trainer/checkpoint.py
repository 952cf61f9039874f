"""Checkpoints: directories that are there whole or not at all.

One holds model.safetensors, architecture.json, where Lfm2 can express it a Hugging Face config.json, the tokenizer
with its configuration, what quantisation made of the model (`trainer.packed`), and while training the optimiser's
state. All randomness of training is a function of seed and step, so the step is all there is to save of it.
"""

import hashlib
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer

from trainer.architecture import Architecture
from trainer.errors import CheckpointError, UnsupportedArchitecture
from trainer.files import fresh_draft, fsync_directory, fsync_file, write_text
from trainer.interop import load_folder, load_weights, to_config, tokenizer_config, weights
from trainer.model import HybridLM
from trainer.packed import read_packing, tensors, write_packing
from trainer.quantise import Packing
from trainer.tokenizer import end_of_text, load_tokenizer, require_fit

_WEIGHTS, _ARCHITECTURE, _TRAINING, _TOKENIZER, _SUMS = (
    "model.safetensors",
    "architecture.json",
    "training.pt",
    "tokenizer.json",
    "sha256.json",
)
_DELETE = "delete it to train from the start"


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

    def restore(self, model: HybridLM) -> dict[str, Any]:
        """Fill `model`, and return the training state beside it.

        Raises:
            CheckpointError: another architecture, no training state, or damaged files.
        """
        if self.architecture != model.architecture:
            raise CheckpointError(
                f"{self.directory} belongs to another architecture", advice="train in another directory"
            )
        self._verify()
        load_weights(model, [self.directory / _WEIGHTS])
        try:
            state: dict[str, Any] = torch.load(self.directory / _TRAINING, weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as wrong:
            raise CheckpointError(
                f"{self.directory}: the training state cannot be read: {wrong}",
                advice=_DELETE,
            ) from wrong
        return state

    def _verify(self) -> None:
        """Raise CheckpointError unless every file is as it was written: a flipped bit of a weight still loads."""
        sums = self.directory / _SUMS
        if not sums.exists():
            return  # an older version did not write them
        try:
            damaged = [name for name, sum_ in json.loads(sums.read_text()).items() if self._sum(name) != sum_]
        except (OSError, ValueError, AttributeError) as wrong:
            raise CheckpointError(f"{self.directory} cannot be read: {wrong}", advice=_DELETE) from wrong
        if damaged:
            raise CheckpointError(
                f"{self.directory}: {', '.join(damaged)} changed since it was written", advice=_DELETE
            )

    def _sum(self, name: str) -> str:
        with (self.directory / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Rolling:
    """The latest checkpoint of a training. The previous one goes when the new one is whole."""

    def __init__(self, directory: Path, tokenizer: Tokenizer) -> None:
        self.directory = directory
        self._tokenizer = tokenizer

    def latest(self) -> Checkpoint | None:
        """The one with the most steps."""
        found = sorted(self.directory.glob("step-*"))
        return Checkpoint(found[-1]) if found else None

    def save(self, model: HybridLM, step: int, training: dict[str, Any]) -> Checkpoint:
        """Save, then remove what is older.

        Raises:
            CheckpointError: the disk is full or refuses; the previous checkpoint is untouched.
        """
        previous = list(self.directory.glob("step-*"))
        target = self.directory / f"step-{step:09d}"
        _write(model, target, self._tokenizer, training)
        for old in previous:
            if old != target:
                shutil.rmtree(old)
        return Checkpoint(target)

    def clear(self) -> None:
        """Remove all of it: the training is over and its result lies elsewhere."""
        shutil.rmtree(self.directory, ignore_errors=True)


def seal(model: HybridLM, parent: Path, tokenizer: Tokenizer, quantisation: Quantised | None = None) -> Checkpoint:
    """Keep a finished model under `parent`, named by the sha256 of its content; the same content again costs nothing.

    Raises:
        CheckpointError: the disk is full or refuses.
    """
    digest = hashlib.sha256(model.architecture.hash.encode())
    digest.update(tokenizer.to_str().encode())
    stored = weights(model)
    if quantisation is not None:
        digest.update(quantisation.packing.scheme.model_dump_json().encode())
        stored = stored | tensors(quantisation.packing)
    for name, tensor in sorted(stored.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().view(torch.uint8).numpy().tobytes())
    target = parent / digest.hexdigest()
    if not target.exists():
        _write(model, target, tokenizer, None, quantisation)
    return Checkpoint(target)


def gathered(folder: Path, parent: Path) -> Checkpoint:
    """A checkpoint of ours, or a Hugging Face folder of an Lfm2 model with its tokenizer.json, sealed under `parent`.

    Raises:
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
    return seal(model, parent, tokenizer)


def _write(
    model: HybridLM,
    target: Path,
    tokenizer: Tokenizer,
    training: dict[str, Any] | None,
    quantisation: Quantised | None = None,
) -> None:
    draft: Path | None = None
    try:
        draft = fresh_draft(target)
        save_file(weights(model), draft / _WEIGHTS, metadata={"format": "pt"})
        fsync_file(draft / _WEIGHTS)
        if training is not None:
            torch.save(training, draft / _TRAINING)
            fsync_file(draft / _TRAINING)
        if quantisation is not None:
            write_packing(quantisation.packing, quantisation.found, draft)
        write_text(draft / _ARCHITECTURE, model.architecture.model_dump_json(indent=2))
        write_text(draft / _TOKENIZER, tokenizer.to_str())
        end = end_of_text(tokenizer)
        write_text(draft / "tokenizer_config.json", tokenizer_config(tokenizer.to_str(), end))
        _describe_for_hugging_face(model.architecture, draft, end)
        written = Checkpoint(draft)
        sums = {path.name: written._sum(path.name) for path in sorted(draft.iterdir())}
        write_text(draft / _SUMS, json.dumps(sums, indent=2))
        fsync_directory(draft)
        if target.exists():
            shutil.rmtree(target)  # the same step, saved twice
        draft.rename(target)
        fsync_directory(target.parent)
    except (OSError, SafetensorError, RuntimeError) as wrong:
        advice = "free some space and start again: the previous checkpoint is whole"
        raise CheckpointError(f"{target} cannot be written: {wrong}", advice=advice) from wrong
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _describe_for_hugging_face(architecture: Architecture, folder: Path, end: int) -> None:
    try:
        config = to_config(architecture, end_of_text=end)
    except UnsupportedArchitecture:
        return  # architecture.json says it all; only transformers cannot load this one
    write_text(folder / "config.json", json.dumps(config, indent=2))
