"""RMSNorm (arXiv 1910.07467), with a backward pass of its own on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as x; the mean is taken in fp32."""
        if not _is_faster(x, self.weight):
            return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)
        out: Tensor = _Normed.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return out


def _is_faster(x: Tensor, weight: Tensor) -> bool:
    """Training in float32 on a CPU: torch's is made of eight operations there, and keeps what they give."""
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling()


class _Normed(torch.autograd.Function):
    """With r = 1 / rms(x), n = x r and c = mean(g w n): dx = r (g w - n c), dw = sum(g n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = x * scale
        return normed.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        each = (gradients[0] * normed).flatten(0, -2)
        shared = torch.mv(each, weight).view(scale.shape).div_(-x.shape[-1])
        return (gradients[0] * weight).addcmul_(normed, shared).mul_(scale), each.sum(0), None
