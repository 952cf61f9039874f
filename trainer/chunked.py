"""Losses that never hold the logits of a batch: a few positions at a time are projected, judged and differentiated.

Whole, the logits of 8 windows of 4,096 positions over 65,536 tokens take 8.6 GB, and as much again for every step of
the loss. Here the gradient of a chunk is taken as soon as its loss is known, so nothing is computed twice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.linear import is_faster, product, weight_gradient

_FEWEST_ROWS = 256
_LOGITS = 1 << 21  # of a chunk: 8 MiB in float32, what a processor's cache holds

ChunkLoss = Callable[..., Tensor]
"""(logits [positions, vocab] in float32, rows...) -> their mean loss."""


def chunks(positions: int, vocabulary: int) -> Iterator[slice]:
    """Cuts of the positions that keep logits of this vocabulary few."""
    size = max(_FEWEST_ROWS, _LOGITS // vocabulary)
    return (slice(start, min(start + size, positions)) for start in range(0, positions, size))


def mean_loss(hidden: Tensor, weight: Tensor, rows: Sequence[Tensor], loss: ChunkLoss) -> Tensor:
    """The mean over all positions of `loss(hidden @ weight.T, *rows)`, in float32.

    Args:
        hidden: [..., width], what the head is given.
        weight: [vocab, width], the head; it is multiplied in the type of `hidden`.
        rows: tensors whose leading axes are those of `hidden`: what the loss is told of each position.
        loss: the mean loss of some positions; it needs no gradients of `rows`.
    """
    lead = hidden.dim() - 1
    found: Tensor = _MeanLoss.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        hidden.flatten(0, -2), weight, loss, *(row.flatten(0, lead - 1) for row in rows)
    )
    return found


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, loss: ChunkLoss, *rows: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad[:2])
        cast = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wanted else None
        to_weight = torch.zeros_like(weight, dtype=total.dtype) if wanted else None
        for cut in chunks(len(hidden), len(weight)):
            inputs = hidden[cut]
            logits = _times(inputs, cast).to(total.dtype).requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                part = loss(logits, *(row[cut] for row in rows)) * (len(inputs) / len(hidden))
            total += part.detach()
            if to_hidden is not None and to_weight is not None:
                slope = torch.autograd.grad(part, logits)[0].to(hidden.dtype)
                to_hidden[cut] = _times(slope, cast.t())
                to_weight += weight_gradient(slope, inputs) if is_faster(slope, inputs) else slope.t() @ inputs
        ctx.save_for_backward(to_hidden, to_weight)
        ctx.kind = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_weight = ctx.saved_tensors
        factor = upstream[0]
        nothing = [None] * (len(ctx.needs_input_grad) - 2)
        return (to_hidden * factor.to(to_hidden.dtype), (to_weight * factor).to(ctx.kind), *nothing)


def _times(a: Tensor, b: Tensor) -> Tensor:
    return product(a, b) if is_faster(a, b) else F.linear(a, b)
