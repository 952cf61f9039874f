"""Muon: momentum, orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; arXiv 2502.16982).

torch's own takes its products in bfloat16, which a processor without it takes seven times as long for. Here they are
float32 on a CPU, through oneDNN, and bfloat16 elsewhere.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from trainer.linear import is_faster, product
from trainer.sharded import held, rows_of, whole

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end between about 0.7 and 1.2 after five rounds
_ROUNDS = 5
_MOMENTUM = 0.95


class Muon(AdamW):
    """Muon for the groups with `orthogonal` True, whose parameters are matrices; AdamW for the others."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002  # torch's signature
        """Take one step. It consumes the gradients of what it orthogonalises: AdamW passes by what has none."""
        for group in self.param_groups:
            if not group["orthogonal"]:
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
                    parameter.grad = None
        super().step()

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.tensor(0.0)  # AdamW looks for it when a state is loaded
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        nesterov = whole(gradient.lerp(momentum, _MOMENTUM))  # every rank orthogonalises, and takes its rows
        direction = rows_of(orthogonalised(nesterov), parameter)
        # A change of this spectral norm moves outputs by as much at every width (arXiv 2310.17813, condition 1).
        rows, columns = parameter.shape
        weight = held(parameter)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(direction, alpha=-group["lr"] * math.sqrt(rows / columns))


def orthogonalised(matrix: Tensor) -> Tensor:
    """`matrix` with its singular values near one, by Newton and Schulz's iteration of a quintic; in its own type."""
    x = matrix if matrix.device.type == "cpu" else matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.t().contiguous() if tall else x
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        gram = _times_transposed(x, x)
        x = a * x + _times_transposed(b * gram + c * _times_transposed(gram, gram), x.t())
    found: Tensor = (x.t() if tall else x).to(matrix.dtype)
    return found


def _times_transposed(a: Tensor, b: Tensor) -> Tensor:
    return product(a, b) if is_faster(a, b) else torch.mm(a, b.t())
