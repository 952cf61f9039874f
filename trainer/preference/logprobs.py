"""Log-probabilities of answers, with gradients, whose logits are never stored whole.

What a loss makes of a sum over an answer is known only when the sum is, so the head's chunks go by twice: forwards for
the sums, and backwards, with the loss's slope at each token, for the gradients.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.linear_cross_entropy import IGNORED, most_rows, token_nats
from trainer.model import HybridLM


def answer_nats(model: HybridLM, inputs: Tensor, targets: Tensor, documents: Tensor | None) -> Tensor:
    """-log p of every target, [B, T] float32, 0 where `IGNORED`; with gradients where they are enabled.

    Only positions with a target go through the head.
    """
    h, weight = model.head_factors(model.hidden(inputs, documents=documents))
    asked = targets != IGNORED
    found: Tensor = _Nats.apply(h[asked], weight, targets[asked])  # type: ignore[no-untyped-call]  # torch's is untyped
    return torch.zeros(targets.shape, device=found.device).masked_scatter(asked, found)


class _Nats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight, labels)
        return token_nats(rows, weight, labels)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weight, labels = ctx.saved_tensors
        cast = weight.to(rows.dtype)
        to_rows = torch.empty_like(rows)
        to_weight = torch.zeros_like(weight, dtype=torch.float32)
        size = most_rows(len(weight))
        for start in range(0, len(rows), size):
            at = slice(start, start + size)
            slope = (rows[at] @ cast.t()).float().softmax(-1)
            label = labels[at, None]
            slope.scatter_add_(1, label, torch.full_like(label, -1, dtype=slope.dtype))
            slope = slope.mul_(upstream[0][at, None]).to(rows.dtype)
            to_rows[at] = slope @ cast
            to_weight += slope.t() @ rows[at]
        return to_rows, to_weight.to(weight.dtype), None
