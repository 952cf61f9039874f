"""What a teacher is, and the simplest one: a checkpoint of ours."""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from trainer.chunked import chunks
from trainer.data import Batch
from trainer.distil import TopK
from trainer.model import HybridLM


class Teacher(Protocol):
    """Knows what follows in a text, position by position."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def top_k(self, batch: Batch, k: int) -> TopK:
        """Its predictions at every position, [B, T, K] and [B, T]; each document is read on its own.

        Raises:
            TeacherError: it cannot read this batch.
        """
        ...


class LiveTeacher(ABC):
    """A teacher that is asked at every step. Logits of a whole batch are never held: see `trainer.chunked`."""

    name: str
    vocab_size: int

    @abstractmethod
    def hidden(self, batch: Batch) -> Tensor:
        """What its head is given, [B, T, width]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Of some positions of `hidden`, [..., width] -> [..., vocab_size]."""

    @torch.no_grad()
    def top_k(self, batch: Batch, k: int) -> TopK:
        """See `Teacher`."""
        hidden = self.hidden(batch)
        flat = hidden.flatten(0, 1)
        parts = [TopK.of(self.logits(flat[cut]), k) for cut in chunks(len(flat), self.vocab_size)]
        return TopK(*(torch.cat(each).unflatten(0, hidden.shape[:2]) for each in zip(*parts, strict=True)))


class OurTeacher(LiveTeacher):
    """A model of ours."""

    def __init__(self, model: HybridLM, name: str, vocab_size: int) -> None:
        """Logits of ids from `vocab_size` on, with which models are padded, are cut off."""
        self.name = name
        self.vocab_size = min(vocab_size, model.architecture.vocab_size)
        self._model = model.eval().requires_grad_(False)

    def hidden(self, batch: Batch) -> Tensor:
        """See `LiveTeacher`."""
        follow(self._model, batch)
        return self._model.hidden(batch.inputs, documents=batch.documents)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `LiveTeacher`."""
        return self._model.logits(hidden)[..., : self.vocab_size]


def follow(model: nn.Module, batch: Batch) -> None:
    """Move `model` to where the batch is, the first time."""
    if next(model.parameters()).device != batch.inputs.device:
        model.to(batch.inputs.device)
