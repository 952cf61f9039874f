"""Training under the rounding of deployment: what a matrix is multiplied by is rounded, what is trained is not."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import QuantisationError
from trainer.linear import Linear
from trainer.model import HybridLM, TiedEmbedding
from trainer.precision import EMBEDDING, HEAD, W4A8, Precision, Scheme
from trainer.quantise import Packing, absmax_scale, as_bfloat16, bounds, group_size, pack, round_activations
from trainer.rounding import Noise


class _Nearest(torch.autograd.Function):
    """The dequantised weight forward, the identity backward (straight-through, arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, groups: Tensor, scale: Tensor, bits: int) -> Tensor:  # noqa: ARG004  # autograd's signature
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(groups, scale, zero, 0, *bounds(bits))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ARG004
        return gradients[0], None, None


class _Learned(torch.autograd.Function):
    """LSQ (arXiv 1902.08153, eq. 1 to 3): gradients reach the scale, and the weights that are not clipped.

    The forward pass rounds the scale to bfloat16, as deployment does; the backward pass looks through that. With
    `uniform` numbers in [0, 1) the integers are rounded stochastically.
    """

    @staticmethod
    def forward(ctx: Any, groups: Tensor, scale: Tensor, bits: int, uniform: Tensor | None) -> Tensor:
        held, (low, high) = as_bfloat16(scale), bounds(bits)
        steps = groups * (1.0 / held)[:, None]
        integers = steps.round() if uniform is None else (steps + uniform).floor()
        q = integers.clamp(low, high)
        clipped = q != integers  # torch's reading: 7.4 steps are not
        ctx.save_for_backward(clipped, torch.where(clipped, q, q - steps))
        # Their factor balances the update of a scale against that of a weight.
        ctx.factor = 1 / math.sqrt(groups.shape[1] * high)
        return q * held[:, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        clipped, slope = ctx.saved_tensors
        return gradients[0].masked_fill(clipped, 0), (gradients[0] * slope).sum(1) * ctx.factor, None, None


class _Stochastic(torch.autograd.Function):
    """Integers rounded up or down at random so that their mean is the weight; the identity backward."""

    @staticmethod
    def forward(ctx: Any, groups: Tensor, scale: Tensor, bits: int, uniform: Tensor) -> Tensor:  # noqa: ARG004
        q = (groups * (1.0 / scale)[:, None] + uniform).floor().clamp(*bounds(bits))
        return q * scale[:, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ARG004
        return gradients[0], None, None, None


class Rounder(nn.Module):
    """Rounds one matrix as its role is rounded: with its largest elements' scales, with given ones, or learned ones.

    Learned scales are kept as logarithms to base 2 (arXiv 1903.08066): positive, and a step of Adam changes them in
    proportion.
    """

    log_scale: Tensor | None

    def __init__(self, role: str, precision: Precision, scale: Tensor | None, learn: bool) -> None:
        super().__init__()
        self.role, self.precision, self.learn = role, precision, learn
        self.noise: Noise | None = None
        logarithm = None if scale is None else scale.log2()
        if learn and logarithm is not None:
            self.log_scale = nn.Parameter(logarithm)
        else:
            self.register_buffer("log_scale", logarithm)

    def scale(self) -> Tensor | None:
        """[out, groups], before it is rounded to bfloat16; None where it is that of the largest elements."""
        return None if self.log_scale is None else self.log_scale.exp2()

    def forward(self, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        """weight [out, in], stored in any type, rounded, in float32; only of `rows` where they are given."""
        weight, scale = weight.float(), self.scale()
        if rows is not None:
            weight, scale = F.embedding(rows, weight), None if scale is None else F.embedding(rows, scale)
        if self.precision.bits == 32:
            return weight
        groups = weight.reshape(-1, group_size(self.precision, weight.shape[-1]))
        if scale is None:
            held = as_bfloat16(absmax_scale(groups.detach(), self.precision.bits))
        else:
            held = scale.reshape(-1) if self.learn else as_bfloat16(scale.reshape(-1))
        return self._rounded(groups, held).view(weight.shape)

    def _rounded(self, groups: Tensor, scale: Tensor) -> Tensor:
        bits, uniform = self.precision.bits, None
        if self.noise is not None and self.training:
            uniform = self.noise.uniform(f"forward {self.role}", groups.shape).to(groups.device)
        rounded: Tensor
        if self.learn:
            rounded = _Learned.apply(groups, scale, bits, uniform)  # type: ignore[no-untyped-call]
        elif uniform is not None:
            rounded = _Stochastic.apply(groups, scale, bits, uniform)  # type: ignore[no-untyped-call]
        else:
            rounded = _Nearest.apply(groups, scale, bits)  # type: ignore[no-untyped-call]
        return rounded


class _Activations(torch.autograd.Function):
    """int8 activations forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return round_activations(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0]


def _activations(x: Tensor, wanted: bool) -> Tensor:
    if not wanted:
        return x
    rounded: Tensor = _Activations.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return rounded


class QatLinear(Linear):
    """A linear that trains under the rounding of deployment; its `weight` is the master, in the type it is kept in."""

    rounder: Rounder
    rounds_activations: bool

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x and the weight, both rounded."""
        return _activations(x, self.rounds_activations), self.rounder(self.weight)


class QatEmbedding(TiedEmbedding):
    """An embedding that trains under the rounding of deployment: read with one rounder, projected with another."""

    rounder: Rounder
    head: Rounder
    rounds_activations: bool

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, width]."""
        rows: Tensor = self.rounder(self.weight, tokens)
        return rows

    def factors(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h and the weight, both rounded."""
        return _activations(h, self.rounds_activations), self.head(self.weight)


def prepare_qat(
    model: HybridLM,
    scheme: Scheme = W4A8,
    scales: Mapping[str, Tensor] | None = None,
    *,
    learn: bool = False,
) -> HybridLM:
    """Make every matrix of `model` round as deployed, in place; parameters keep their names.

    Args:
        scales: by role, [out, groups]; those of the largest elements, found anew at every step, where there is none.
        learn: make `scales` parameters of the model.

    Raises:
        QuantisationError: see `Scheme.check`; or scales to be learned that are not given.
    """
    scheme.check(model.architecture)
    given = scales or {}

    def rounder(role: str) -> Rounder:
        precision = scheme.of(role)
        if learn and precision.bits != 32 and role not in given:
            raise QuantisationError(f"{role} has no scale to start learning from", advice="search one first")
        rounded = precision.bits != 32
        return Rounder(role, precision, given.get(role) if rounded else None, learn and rounded)

    for name, module in list(model.named_modules()):
        role = f"{name}.weight"
        if isinstance(module, TiedEmbedding):
            # Only behaviour differs, not state: changing the class keeps every parameter, its name and its type.
            module.__class__ = QatEmbedding
            module.rounder = rounder(EMBEDDING)
            if model.architecture.tied:
                module.head = rounder(HEAD)
            module.rounds_activations = scheme.activations and scheme.of(HEAD).bits != 32  # type: ignore[assignment]
        elif isinstance(module, nn.Linear):
            module.__class__ = QatLinear
            module.rounder = rounder(role)
            module.rounds_activations = scheme.activations and scheme.of(role).bits != 32  # type: ignore[assignment]
    return model


def rounders(model: HybridLM) -> dict[str, Rounder]:
    """By role."""
    return {module.role: module for module in model.modules() if isinstance(module, Rounder)}


def masters(model: HybridLM) -> HybridLM:
    """The plain model of one in QAT: its masters in the types they are kept in, sharing nothing with it."""
    plain = HybridLM(model.architecture)
    state = model.state_dict()
    plain.load_state_dict({name: state[name].clone() for name in plain.state_dict()}, assign=True)
    return plain.requires_grad_(False).eval()


@torch.no_grad()
def pack_trained(model: HybridLM, scheme: Scheme) -> Packing:
    """The integers that a model in QAT multiplies by.

    Raises:
        QuantisationError: a weight is not finite.
    """
    scales = {role: scale for role, found in rounders(model).items() if (scale := found.scale()) is not None}
    return pack(masters(model), scheme, scales)
