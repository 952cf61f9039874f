"""Rotary position embeddings (arXiv 2104.09864), plain or stretched to a longer context by YaRN (arXiv 2309.00071)."""

import math

import torch
from torch import Tensor

from trainer.architecture import Rope, Yarn


def tables(positions: Tensor, head_dim: int, rope: Rope) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [T, head_dim] in fp32, halves repeated; YaRN's attention temperature is in them.

    `positions` is [T], any integer type.
    """
    angles = positions.float()[:, None] * frequencies(head_dim, rope).to(positions.device)
    angles = torch.cat((angles, angles), dim=-1)
    factor = 1.0 if rope.yarn is None else attention_factor(rope.yarn)
    return angles.cos() * factor, angles.sin() * factor


def frequencies(head_dim: int, rope: Rope) -> Tensor:
    """Radians per position of every pair, [head_dim/2] in fp32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / rope.theta**exponents
    if rope.yarn is None:
        return plain
    ramp = _ramp(head_dim, rope.theta, rope.yarn)
    return plain / rope.yarn.factor * ramp + plain * (1 - ramp)


def attention_factor(yarn: Yarn) -> float:
    """What queries and keys are both multiplied by, so that logits are by its square (arXiv 2309.00071, eq. 22)."""
    return 0.1 * math.log(yarn.factor) + 1.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply `tables` [T, head_dim] to x [..., T, head_dim]; pairs are (i, i + head_dim/2)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x.dtype)


def _ramp(head_dim: int, theta: float, yarn: Yarn) -> Tensor:
    """Per pair, 0: turns often enough within the original context to be left alone; 1: interpolated (section 3.2)."""

    def pair(turns: float) -> float:
        """The pair that turns so often within the original context."""
        return head_dim * math.log(yarn.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair(yarn.fast)), 0)
    high = min(math.ceil(pair(yarn.slow)), head_dim - 1)
    places = torch.arange(head_dim // 2, dtype=torch.float32)
    return ((places - low) / ((high - low) or 1e-3)).clamp(0, 1)
