"""Losses of a training that learns from a teacher, by chunks: logits of a whole batch are never held."""

from torch import Tensor

from trainer.chunked import mean_loss
from trainer.data import Batch
from trainer.distil import TopK, distilled, distilled_whole
from trainer.engine import Loss
from trainer.model import HybridLM
from trainer.teachers.teacher import LiveTeacher, Teacher


def from_top_k(teacher: Teacher, share: float, top_k: int, temperature: float) -> Loss:
    """(1 - share) cross-entropy + share decoupled top-K distillation: see `trainer.distil.distilled`."""

    def judged(logits: Tensor, targets: Tensor, *known: Tensor) -> Tensor:
        return distilled(logits, targets, TopK(*known), share=share, temperature=temperature)

    def loss(model: HybridLM, batch: Batch) -> Tensor:
        known = teacher.top_k(batch, top_k)
        hidden = model.hidden(batch.inputs, documents=batch.documents)
        return mean_loss(*model.head_factors(hidden), (batch.targets, *known), judged)

    return loss


def from_whole(teacher: LiveTeacher, share: float, beta: float, temperature: float) -> Loss:
    """(1 - share) cross-entropy + share generalised JSD of whole vocabularies: see `trainer.distil.distilled_whole`."""

    def judged(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        theirs = teacher.logits(known).detach()
        return distilled_whole(logits, targets, theirs, share=share, beta=beta, temperature=temperature)

    def loss(model: HybridLM, batch: Batch) -> Tensor:
        known = teacher.hidden(batch).detach()
        hidden = model.hidden(batch.inputs, documents=batch.documents)
        return mean_loss(*model.head_factors(hidden), (batch.targets, known), judged)

    return loss
