"""The numerics of deployment (8da4w): 4-bit groupwise weights, 8-bit activations whose scales are found at run time.

Weights: symmetric, one scale per group of inputs, rounded to bfloat16 because that is what XNNPACK keeps. Activations:
asymmetric int8 per token, torchao's choose_qparams. Convolutions and norms stay in fp32. `quantised` gives the eager
model whose numbers the exported program must reproduce; `prepare_qat` makes a model train under the same rounding.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import QuantisationError
from trainer.model import HybridLM, TiedEmbedding

_TINY = torch.finfo(torch.float32).smallest_normal  # torchao's floor for scales; a bfloat16 too


@dataclass(frozen=True)
class Scheme:
    """What is quantised: the weights of linears always, in groups of `group_size` inputs; the rest if asked.

    The tied embedding's matrix is one of the head's weights; `embedding` says whether tokens are read from it rounded.
    """

    group_size: int = 32
    activations: bool = True
    embedding: bool = True


@torch.no_grad()
def quantise_weight(weight: Tensor, group_size: int = 32) -> tuple[Tensor, Tensor]:
    """Symmetric 4-bit integers of a matrix [out, in], and their scales.

    s = max(-min, max) / 7.5 of each group, rounded to bfloat16; q = clamp(round(w * (1/s)), -8, 7). The product with
    the reciprocal is torchao's: the division differs by a whole step where the largest element sits on a tie.

    Returns:
        q: int8 [out, in], and scale: float32 [out, in / group_size], every value a bfloat16.

    Raises:
        QuantisationError: the groups do not divide the inputs, or a weight is not finite.
    """
    if weight.shape[1] % group_size:
        raise QuantisationError(
            f"groups of {group_size} do not divide {weight.shape[1]} inputs", advice="choose a group size that does"
        )
    groups = weight.detach().float().unflatten(1, (-1, group_size))
    largest = groups.abs().amax(dim=-1)
    if not bool(largest.isfinite().all()):
        raise QuantisationError("a weight is not a finite number", advice="train it again from an earlier checkpoint")
    scale = (largest / 7.5).clamp(min=_TINY).bfloat16().float()
    q = (groups * (1.0 / scale)[..., None]).round().clamp(-8, 7)
    return q.to(torch.int8).flatten(1), scale


def dequantise_weight(q: Tensor, scale: Tensor) -> Tensor:
    """float32 [out, in] from what `quantise_weight` returns."""
    groups = q.unflatten(1, (scale.shape[1], -1)).float()
    weight: Tensor = (groups * scale[..., None]).flatten(1)
    return weight


@torch.no_grad()
def round_activations(x: Tensor) -> Tensor:
    """x [..., channels] as int8 represents it, each token (last axis) with its own scale and zero point; fp32."""
    low = x.amin(dim=-1, keepdim=True).clamp(max=0)
    high = x.amax(dim=-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=_TINY)
    zero = (-128 - (low / scale).round()).clamp(-128, 127).to(torch.int32)
    rows = torch.fake_quantize_per_channel_affine(
        x.reshape(-1, x.shape[-1]), scale.flatten(), zero.flatten(), 0, -128, 127
    )
    return rows.view(x.shape)


class _RoundedWeight(torch.autograd.Function):
    """The dequantised weight forward, the identity backward (straight-through, arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, group_size: int) -> Tensor:  # noqa: ARG004  # autograd's signature
        groups = weight.detach().view(-1, group_size)
        scale = (groups.abs().amax(dim=-1) / 7.5).clamp(min=_TINY).bfloat16().float()
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(groups, scale, zero, 0, -8, 7).view(weight.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


class _RoundedActivations(torch.autograd.Function):
    """int8 activations forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return round_activations(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0]


def _rounded_weight(weight: Tensor, group_size: int) -> Tensor:
    rounded: Tensor = _RoundedWeight.apply(weight, group_size)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return rounded


def _rounded_activations(x: Tensor, scheme: Scheme) -> Tensor:
    if not scheme.activations:
        return x
    rounded: Tensor = _RoundedActivations.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return rounded


class QatLinear(nn.Linear):
    """A linear that trains under the rounding of deployment; its `weight` is the full-precision master."""

    scheme: Scheme

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(_rounded_activations(x, self.scheme), _rounded_weight(self.weight, self.scheme.group_size))


class QatEmbedding(TiedEmbedding):
    """A tied embedding that trains under the rounding of deployment."""

    scheme: Scheme

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, width]."""
        # Groups lie within rows, so only the rows that are read need rounding.
        rows = F.embedding(tokens, self.weight)
        return _rounded_weight(rows, self.scheme.group_size) if self.scheme.embedding else rows

    def project(self, h: Tensor) -> Tensor:
        """[..., width] -> logits [..., vocab]."""
        return F.linear(_rounded_activations(h, self.scheme), _rounded_weight(self.weight, self.scheme.group_size))


class QuantisedLinear(nn.Linear):
    """A linear as it is deployed: `weight` holds the dequantised integers."""

    scheme: Scheme

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(round_activations(x) if self.scheme.activations else x, self.weight)


class QuantisedEmbedding(TiedEmbedding):
    """A tied embedding as it is deployed: `weight` writes logits, `table` is read: the same, where it is rounded."""

    scheme: Scheme
    table: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, width]."""
        return F.embedding(tokens, self.table)

    def project(self, h: Tensor) -> Tensor:
        """[..., width] -> logits [..., vocab]."""
        return F.linear(round_activations(h) if self.scheme.activations else h, self.weight)


def prepare_qat(model: HybridLM, scheme: Scheme = Scheme()) -> HybridLM:  # frozen
    """Make every linear and the tied embedding of `model` round as deployed, in place; parameters keep their names."""
    _retype(model, scheme, QatLinear, QatEmbedding)
    return model


@torch.no_grad()
def quantised(model: HybridLM, scheme: Scheme = Scheme()) -> HybridLM:
    """The eager model of deployment, from a plain model or one in QAT, which stays as it is.

    Raises:
        QuantisationError: see `quantise_weight`.
    """
    deployed = copy.deepcopy(model).requires_grad_(False)
    _retype(deployed, scheme, QuantisedLinear, QuantisedEmbedding)
    for module in deployed.modules():
        if isinstance(module, QuantisedLinear | QuantisedEmbedding):
            plain = module.weight.clone()
            module.weight.copy_(dequantise_weight(*quantise_weight(plain, scheme.group_size)))
            if isinstance(module, QuantisedEmbedding):
                module.register_buffer("table", module.weight if scheme.embedding else plain, persistent=False)
    return deployed


def quantised_weights(model: HybridLM, group_size: int = 32) -> dict[str, tuple[Tensor, Tensor]]:
    """(q, scale) of every linear and of the tied embedding, by parameter name: what an export packs."""
    return {
        f"{name}.weight": quantise_weight(module.weight, group_size)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | TiedEmbedding)
    }


def _retype(model: HybridLM, scheme: Scheme, linear: type[nn.Linear], embedding: type[TiedEmbedding]) -> None:
    # Only behaviour differs, not state: changing the class keeps every parameter, its name and its optimiser state.
    for module in model.modules():
        kind: type[nn.Module] | None = None
        if isinstance(module, nn.Linear):
            kind = linear
        elif isinstance(module, TiedEmbedding):
            kind = embedding
        if kind is not None:
            module.__class__ = kind
            module.scheme = scheme  # type: ignore[assignment]  # torch types attributes of Module as tensors
