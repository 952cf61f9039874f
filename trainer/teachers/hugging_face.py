"""Teachers from folders of transformers. The library is imported here alone, and only when such a teacher is opened."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.data import Batch
from trainer.errors import TeacherError
from trainer.teachers.teacher import LiveTeacher, follow


class TransformersTeacher(LiveTeacher):
    """A causal language model of transformers.

    Every document is a sequence of its own, beginning at position 0, with padding only after its end: so no kind of
    model, whatever it carries from token to token, can carry it from one document to the next.
    """

    def __init__(self, model: Any, name: str, vocab_size: int) -> None:
        """Logits of ids from `vocab_size` on, with which models are padded, are cut off."""
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        with torch.no_grad():
            probe = torch.arange(8)[None] % vocab_size
            logits = model(probe, use_cache=False).logits
            self.vocab_size = min(vocab_size, logits.shape[-1])
            self._plain_head = self._projects(probe, logits)

    def _projects(self, probe: Tensor, logits: Tensor) -> bool:
        """Whether logits are the head's product and nothing more (some models cap or scale them)."""
        base, head = self._model.base_model, self._model.get_output_embeddings()
        if head is None or base is self._model:
            return False
        projected = head(base(probe, use_cache=False).last_hidden_state)
        return projected.shape == logits.shape and torch.allclose(projected, logits, rtol=1e-3, atol=1e-3)

    def hidden(self, batch: Batch) -> Tensor:
        """See `LiveTeacher`; the logits themselves, of a model that does more than project.

        Raises:
            TeacherError: windows longer than the teacher's positions.
        """
        length = batch.inputs.shape[1]
        if self._longest is not None and length > self._longest:
            raise TeacherError(
                f"{self.name} reads at most {self._longest} tokens, and the windows have {length}",
                advice="train on shorter sequences, or take another teacher",
            )
        follow(self._model, batch)
        out: Tensor | None = None
        documents = torch.zeros_like(batch.inputs) if batch.documents is None else batch.documents
        for group in _grouped(_pieces(documents), batch.inputs.numel()):
            longest = max(stop - start for _, start, stop in group)
            tokens = batch.inputs.new_zeros(len(group), longest)
            for index, (row, start, stop) in enumerate(group):
                tokens[index, : stop - start] = batch.inputs[row, start:stop]
            found = self._read(tokens)
            if out is None:
                out = found.new_empty(*batch.inputs.shape, found.shape[-1])
            for index, (row, start, stop) in enumerate(group):
                out[row, start:stop] = found[index, : stop - start]
        assert out is not None, "a batch has at least one position"
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """See `LiveTeacher`."""
        if not self._plain_head:
            return hidden
        out: Tensor = self._model.get_output_embeddings()(hidden)
        return out[..., : self.vocab_size]

    def _read(self, tokens: Tensor) -> Tensor:
        # Causal, so that what stands before the padding never sees it; said with a mask, lest one be guessed.
        model = self._model.base_model if self._plain_head else self._model
        found = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
        out: Tensor = found.last_hidden_state if self._plain_head else found.logits[..., : self.vocab_size]
        return out


def load_transformers(folder: Path, name: str, vocab_size: int) -> TransformersTeacher:
    """The causal language model of a local folder, in float32 on a CPU and otherwise in the type it was saved in.

    Raises:
        TeacherError: transformers is not installed, does not know the model, or its weights are damaged or incomplete.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as missing:
        raise TeacherError(
            f"{name} is a model of transformers, which is not installed", advice="pip install 'fulcrum[teachers]'"
        ) from missing
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            dtype="auto" if torch.cuda.is_available() else torch.float32,
            output_loading_info=True,
        )
    except Exception as wrong:  # the library raises many kinds, some of them bare
        raise TeacherError(
            f"{name} cannot be loaded by transformers: {wrong}",
            advice="give a folder that save_pretrained wrote; code that a folder brings is never run",
        ) from wrong
    if absent := sorted(told["missing_keys"]) + sorted(str(each) for each in told["mismatched_keys"]):
        raise TeacherError(
            f"{name}: the weights lack or misshape {absent[0]}"
            + (f" and {len(absent) - 1} more" if absent[1:] else ""),
            advice="copy the folder again: what it lacks would be random",
        )
    return TransformersTeacher(model, name, vocab_size)


def _pieces(documents: Tensor) -> list[tuple[int, int, int]]:
    """(row, start, stop) of every document's part of a window."""
    found = []
    for row, ids in enumerate(documents.cpu()):
        bounds = [0, *(torch.nonzero(ids[1:] != ids[:-1]).flatten() + 1).tolist(), len(ids)]
        found += [(row, start, stop) for start, stop in pairwise(bounds)]
    return found


def _grouped(pieces: list[tuple[int, int, int]], most: int) -> list[list[tuple[int, int, int]]]:
    """Pieces of like length together, each group of at most `most` positions with its padding."""
    groups: list[list[tuple[int, int, int]]] = []
    room = 0
    for piece in sorted(pieces, key=lambda each: each[1] - each[2]):
        length = piece[2] - piece[1]
        if not room:
            groups.append([])
            room = most // length  # the first of a group is its longest
        groups[-1].append(piece)
        room -= 1
    return groups
