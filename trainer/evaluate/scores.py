"""How many values a model gives back, by how deep in the context they lie."""

import torch
from pydantic import BaseModel, ConfigDict

from trainer.evaluate.reading import losses
from trainer.evaluate.retrieval import Episodes
from trainer.model import HybridLM

DEPTHS = 4  # equal parts of the context


class Recall(BaseModel):
    """Shares of values that were said whole: of all, and of those in each quarter of the context, first to last."""

    model_config = ConfigDict(frozen=True)

    recall: float
    by_depth: tuple[float | None, ...]
    asked: int


def recall(model: HybridLM, given: Episodes, *, batch: int = 1) -> Recall:
    """Read every window, and ask for its values.

    A value counts if each of its tokens is the likeliest one after those before it, so exactly if greedy decoding says
    it.
    """
    length = given.inputs.shape[1]
    hits = torch.cat(
        [_hits(model, *part, value=given.value) for part in zip(*(x.split(batch) for x in _parts(given)), strict=True)]
    ).flatten()
    quarter = (given.places.flatten() * DEPTHS // length).clamp(max=DEPTHS - 1)
    return Recall(
        recall=float(hits.float().mean()),
        by_depth=tuple(_share(hits[quarter == depth]) for depth in range(DEPTHS)),
        asked=len(hits),
    )


def _parts(given: Episodes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return given.inputs, given.targets, given.answers


def _hits(
    model: HybridLM, inputs: torch.Tensor, targets: torch.Tensor, answers: torch.Tensor, *, value: int
) -> torch.Tensor:
    _, right = losses(model, inputs, targets)
    places = answers[:, :, None] + torch.arange(value)
    return right.gather(1, places.flatten(1)).view(places.shape).all(-1)


def _share(hits: torch.Tensor) -> float | None:
    return float(hits.float().mean()) if len(hits) else None
