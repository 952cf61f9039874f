"""Cross-entropy of a head's logits that are never stored whole.

Rows go through the head in chunks. Where gradients are wanted they are taken with the loss, chunk by chunk (Liger's
fused linear cross-entropy, arXiv 2410.10989, section 3.2), so that nothing is computed twice and what stays until the
backward pass is the size of the hidden states and of the head, not rows x vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.linear import is_faster, product, weight_gradient

_FEWEST_ROWS, _LOGITS = 1024, 1 << 21  # the chunks' size: rows at least, logits of a small vocabulary at most


IGNORED = -100
"""A target that no loss is taken of, as in torch's cross-entropy."""


def linear_cross_entropy(h: Tensor, weight: Tensor, targets: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean of -log softmax(h weight^T)[target] over the targets that are not `IGNORED`, in nats, float32; 0 of none.

    Args:
        h: [..., width], in float32 or a half precision; softmax and sums are taken in float32 either way.
        weight: [vocab, width], float32 or h's type. It is multiplied in h's type.
        targets: [...] int64.
        counts: [...] float32, how much each target counts in the mean; 1 without, and 0 where `IGNORED`.
    """
    rows, labels = h.flatten(0, -2), targets.flatten()
    each = None if counts is None else counts.flatten()
    if not (torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad)):
        nats = token_nats(rows, weight, labels)
        return (nats if each is None else nats * each).sum() / _counted(labels, each)
    out: Tensor = _Fused.apply(rows, weight, labels, each)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out


@torch.no_grad()
def token_nats(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(h weight^T)[target] of every position, 0 where `IGNORED`, float32 like `targets`; no gradients."""
    rows, labels = h.flatten(0, -2), targets.flatten()
    cast = weight.to(h.dtype)
    found = [F.cross_entropy(_logits(rows[at], cast), labels[at], reduction="none") for at in _chunks(rows, weight)]
    return torch.cat(found).view(targets.shape)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, labels: Tensor, counts: Tensor | None) -> Tensor:
        cast = weight.to(rows.dtype)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        to_rows = torch.empty_like(rows)
        to_weight: Tensor | None = None
        for at in _chunks(rows, weight):
            logarithms = _logits(rows[at], cast).log_softmax(-1)
            counted = labels[at, None] != IGNORED if counts is None else counts[at, None]
            label = labels[at, None].clamp(min=0)
            total -= (logarithms.gather(1, label) * counted).sum()
            slope = logarithms.exp_().scatter_add_(1, label, torch.full_like(label, -1, dtype=torch.float32))
            slope = slope.mul_(counted).to(rows.dtype)
            to_rows[at] = _times(slope, cast.t())
            part = weight_gradient(slope, rows[at]) if is_faster(slope, rows) else (slope.t() @ rows[at]).float()
            to_weight = part if to_weight is None else to_weight.add_(part)
        count = _counted(labels, counts)
        ctx.save_for_backward(to_rows, to_weight, count)
        ctx.kind = weight.dtype
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_rows, to_weight, count = ctx.saved_tensors
        factor = gradients[0] / count
        return to_rows * factor.to(to_rows.dtype), (to_weight * factor).to(ctx.kind), None, None


def _counted(labels: Tensor, counts: Tensor | None) -> Tensor:
    """What the mean divides by; not 0, as a part of a batch may have nothing that counts."""
    if counts is None:
        return (labels != IGNORED).sum().clamp(min=1)
    return counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)


def most_rows(vocab_size: int) -> int:
    """Rows whose logits are there at once."""
    return max(_FEWEST_ROWS, _LOGITS // vocab_size)


def _chunks(rows: Tensor, weight: Tensor) -> Iterator[slice]:
    size = most_rows(len(weight))
    return (slice(start, start + size) for start in range(0, len(rows), size))


def _logits(rows: Tensor, weight: Tensor) -> Tensor:
    return _times(rows, weight).float()


def _times(a: Tensor, b: Tensor) -> Tensor:
    return product(a, b) if is_faster(a, b) else F.linear(a, b)
