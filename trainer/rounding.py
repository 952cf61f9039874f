"""Stochastic rounding, and an AdamW whose weights and moments are stored in bfloat16.

A bfloat16 has 8 bits of mantissa: a step below a 512th of a weight is lost when it is rounded to nearest, every time.
Rounded up with the probability of the remainder, it arrives in the mean (arXiv 2010.06192, section 4; 2502.20566).
Noise is a function of seed, step and name (Philox, a counter-based generator: Salmon et al., SC 2011), so nothing of
it is saved, and a training that is carried on draws the same.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.sharded import held, rows_of

_STEP = 1 << 128  # a step's own part of Philox's 256-bit counter


class Noise:
    """Random bits of a training. Set `step` before every step; one name is drawn once a step."""

    def __init__(self, seed: int) -> None:
        self.seed, self.step = seed, 0

    def __deepcopy__(self, known: object) -> "Noise":
        """Copies of a model draw from the one source whose step is set."""
        return self

    def bits(self, name: str, shape: Sequence[int]) -> Tensor:
        """Uniform integers of 16 bits, as int32."""
        count = int(np.prod(shape))
        words = self._generator(name).random_raw(-(-count // 4))
        drawn = words.view(np.uint16)[:count].astype(np.int32)
        return torch.from_numpy(drawn).view(*shape)

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """Uniform float32 in (0, 1), the middles of 65,536 equal parts."""
        return (self.bits(name, shape).float() + 0.5) / (1 << 16)

    def _generator(self, name: str) -> np.random.Philox:
        digest = hashlib.sha256(f"{self.seed}\0{name}".encode()).digest()
        return np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=self.step * _STEP)


def stochastically_rounded(x: Tensor, bits: Tensor) -> Tensor:
    """x (float32) as bfloat16: one of its two neighbours, so that the mean over `bits` (16 uniform ones) is x.

    Adding 16 random bits below bfloat16's last and cutting them off carries with the probability of the remainder.
    """
    return ((x.view(torch.int32) + bits) & -(1 << 16)).view(torch.float32).bfloat16()


class RoundedAdamW(Optimizer):
    """AdamW (arXiv 1711.05101) for parameters in bfloat16 and in float32, each moment in its parameter's type.

    Computed in float32. What is stored in bfloat16 takes 6 bytes a weight with both moments, against 12, and is rounded
    stochastically with `noise`, to nearest without.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        names: dict[nn.Parameter, str],
        noise: Noise | None,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._names, self._noise = names, noise

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002  # torch's signature
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, gradient = int(state["step"]), held(parameter.grad).float()  # type: ignore[arg-type]
        (first, second), rate = group["betas"], group["lr"]
        mean = held(state["mean"]).float().lerp_(gradient, 1 - first)
        square = held(state["square"]).float().mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (square / (1 - second**step)).sqrt_().add_(group["eps"])
        weight = held(parameter).float() * (1 - rate * group["weight_decay"])
        weight.addcdiv_(mean, scale, value=-rate / (1 - first**step))
        name = self._names[parameter]
        held(parameter).copy_(self._rounded(weight, parameter, name, step))
        for moment, value in (("mean", mean), ("square", square)):
            held(state[moment]).copy_(self._rounded(value, parameter, f"{moment} of {name}", step))

    def _rounded(self, value: Tensor, parameter: nn.Parameter, name: str, step: int) -> Tensor:
        """`value` of this rank's rows of `parameter`, as it is stored."""
        if self._noise is None or parameter.dtype is not torch.bfloat16:
            return value
        self._noise.step = step
        bits = self._noise.bits(name, parameter.shape)  # of all rows: what is drawn does not depend on the ranks
        return stochastically_rounded(value, rows_of(bits, parameter).to(value.device))


def in_bfloat16(model: nn.Module) -> None:
    """Keep every matrix of `model` in bfloat16, in place; vectors, convolutions and learned scales stay in float32."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and not name.endswith("log_scale"):
            parameter.data = parameter.data.bfloat16()
