"""Matrix products of training on a CPU, through oneDNN.

torch multiplies float32 matrices with MKL, which keeps AVX-512 from processors that are not Intel's; oneDNN generates
its kernels for whatever it runs on, and is as exact. On an AMD EPYC of 2025 it is 2.2 times as fast (one thread: 250
GFLOP/s against 110). Half precisions go through oneDNN anyway.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEWEST_ROWS = 64  # below, a product is bound by reading the weight


class Linear(nn.Linear):
    """A linear without bias that trains through oneDNN where that is faster."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(*self.factors(x))

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the output is the product of: x [..., in] as it is taken in, and the weight [out, in]."""
        return x, self.weight


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times weight [out, in] transposed, [..., out] in x's type, with gradients."""
    weight = weight.to(x.dtype)
    if not is_faster(x, weight):
        return F.linear(x, weight)
    out: Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `product` can take these, and gains: float32 on a CPU, enough rows, nothing that traces."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= _FEWEST_ROWS * x.shape[-1]
        and torch.backends.mkldnn.is_available()
        and not torch.compiler.is_compiling()
    )


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [..., n] times b [m, n] transposed. `b` may be a transposed view, at no cost; `a` is copied if it is one."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return out


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient [rows, out] transposed times x [rows, in]: [out, in]. The narrower of the two is the one transposed."""
    if x.shape[1] < gradient.shape[1]:
        return product(x.t(), gradient.t()).t()
    return product(gradient.t(), x.t())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_x, to_weight = ctx.needs_input_grad
        return (
            product(gradient, weight.t()) if to_x else None,
            weight_gradient(gradient.flatten(0, -2), x.flatten(0, -2)) if to_weight else None,
        )
