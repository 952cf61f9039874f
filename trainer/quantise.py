"""The numerics of deployment: 4- and 8-bit weights, 8-bit activations whose scales are found at run time.

Weights: symmetric, one scale per group of inputs (4 bits) or per row (8 bits), rounded to bfloat16 because that is what
XNNPACK keeps of a group's. Activations: asymmetric int8 per token, torchao's choose_qparams. Convolutions and norms
stay in fp32. `pack` gives the integers that are exported; `quantised` the eager model whose numbers an exported Program
must reproduce. Training under the same rounding is in `trainer.fake_quantise`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.architecture import Architecture
from trainer.errors import QuantisationError
from trainer.interop import fit
from trainer.linear import Linear
from trainer.model import HybridLM, TiedEmbedding
from trainer.precision import EMBEDDING, FOUR, HEAD, W4A8, Precision, Scheme, matrices

_TINY = torch.finfo(torch.float32).smallest_normal  # torchao's floor for scales; a bfloat16 too


class Integers(NamedTuple):
    """A rounded matrix: q int8 [out, in], and scale float32 [out, groups], every value a bfloat16."""

    q: Tensor
    scale: Tensor

    def dequantised(self) -> Tensor:
        """float32 [out, in]; exact, because 8 bits times 8 bits fit into 24."""
        groups = self.q.unflatten(1, (self.scale.shape[1], -1)).float()
        weight: Tensor = (groups * self.scale[..., None]).flatten(1)
        return weight


def bounds(bits: int) -> tuple[int, int]:
    """The smallest and the largest integer."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def group_size(precision: Precision, inputs: int) -> int:
    """Inputs that share a scale."""
    return precision.group_size or inputs


def absmax_scale(groups: Tensor, bits: int) -> Tensor:
    """s = max(-min, max) / (2^bits - 1) * 2 over the last axis, in float32, not yet a bfloat16."""
    low, high = bounds(bits)
    return (groups.abs().amax(dim=-1) / ((high - low) / 2)).clamp(min=_TINY)


def as_bfloat16(scale: Tensor) -> Tensor:
    """The nearest scale that deployment can hold, as float32."""
    return scale.clamp(min=_TINY).bfloat16().float()


@torch.no_grad()
def quantise_weight(
    weight: Tensor, precision: Precision = FOUR, scale: Tensor | None = None, *, name: str = "the matrix"
) -> Integers:
    """Symmetric integers of a matrix [out, in].

    q = clamp(round(w * (1/s))). Without `scale` [out, groups] it is that of the largest element, see `absmax_scale`.
    The product with the reciprocal is torchao's: the division differs by a whole step where the largest element sits
    on a tie.

    Raises:
        QuantisationError: the groups do not divide the inputs, or a weight is not finite.
    """
    precision.groups(name, weight.shape[1])
    groups = weight.detach().float().unflatten(1, (-1, group_size(precision, weight.shape[1])))
    if not bool(groups.isfinite().all()):
        raise QuantisationError(
            f"a weight of {name} is not a finite number", advice="train it again from an earlier checkpoint"
        )
    scale = as_bfloat16(absmax_scale(groups, precision.bits) if scale is None else scale)
    q = (groups * (1.0 / scale)[..., None]).round_().clamp_(*bounds(precision.bits))  # in place: a vocabulary is large
    return Integers(q.to(torch.int8).flatten(1), scale)


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


@dataclass(frozen=True)
class Packing:
    """A model's matrices as they are deployed: the integers of every role that the scheme rounds."""

    scheme: Scheme
    integers: Mapping[str, Integers]

    def unrounded_activations(self) -> "Packing":
        """The same integers, activations left as they are."""
        return replace(self, scheme=self.scheme.model_copy(update={"activations": False}))

    @property
    def shares_the_tied_matrix(self) -> bool:
        """Whether a tied matrix is the same numbers where tokens are read and where logits are written."""
        read, written = self.integers.get(EMBEDDING), self.integers.get(HEAD)
        if read is None or written is None:
            return read is written
        return torch.equal(read.q, written.q) and torch.equal(read.scale, written.scale)

    def check(self, architecture: Architecture) -> None:
        """Raise CheckpointError unless this is a packing of such a model."""
        self.scheme.check(architecture)
        wanted = {role: shape for role, shape in matrices(architecture).items() if self.scheme.of(role).bits != 32}
        scales = {role: (shape[0], self.scheme.of(role).groups(role, shape[1])) for role, shape in wanted.items()}
        fit({role: integers.q for role, integers in self.integers.items()}, wanted)
        fit({role: integers.scale for role, integers in self.integers.items()}, scales)

    def weights(self, model: HybridLM) -> "Deployed":
        """Everything that is exported, float32, by role or parameter; scales under the role and ".scale".

        Rounding a matrix with its scale again gives the same integers: see `Integers.dequantised`.
        """
        return Deployed(self, model)


class Deployed(Mapping[str, Tensor]):
    """See `Packing.weights`. A matrix is made when it is asked for: no float32 copy of a whole model is ever held."""

    def __init__(self, packing: Packing, model: HybridLM) -> None:
        self._integers = packing.integers
        self._plain: dict[str, Tensor] = model.state_dict()
        self._names = dict.fromkeys([*self._plain, HEAD, *(f"{role}.scale" for role in self._integers)])

    def __getitem__(self, name: str) -> Tensor:
        if name in self._integers:
            return self._integers[name].dequantised()
        role = name.removesuffix(".scale")
        if role != name and role in self._integers:
            return self._integers[role].scale
        plain = self._plain[EMBEDDING if name == HEAD and HEAD not in self._plain else name]
        return plain.detach().float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def matrix(model: HybridLM, role: str) -> Tensor:
    """The full-precision matrix of a role, as it is stored."""
    return model.get_parameter(EMBEDDING if role == HEAD and model.architecture.tied else role)


def pack(model: HybridLM, scheme: Scheme = W4A8, scales: Mapping[str, Tensor] | None = None) -> Packing:
    """Round every matrix of a plain model to the nearest integers, with `scales` by role where they are given.

    Raises:
        QuantisationError: see `quantise_weight`; or an override that names no matrix.
    """
    scheme.check(model.architecture)
    given = scales or {}
    return Packing(
        scheme,
        {
            role: quantise_weight(matrix(model, role), scheme.of(role), given.get(role), name=role)
            for role in matrices(model.architecture)
            if scheme.of(role).bits != 32
        },
    )


class QuantisedLinear(Linear):
    """A linear as it is deployed: `weight` holds the dequantised integers."""

    rounds_activations: bool

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x as it is rounded, and the weight."""
        return round_activations(x) if self.rounds_activations else x, self.weight


class QuantisedEmbedding(TiedEmbedding):
    """An embedding as it is deployed: `weight` is read; `head`, where it is tied, writes logits."""

    rounds_activations: bool
    head: Tensor

    def factors(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h as it is rounded, and the head's weight."""
        return round_activations(h) if self.rounds_activations else h, self.head


@torch.no_grad()
def quantised(model: HybridLM, how: Scheme | Packing = W4A8) -> HybridLM:
    """The eager model of deployment, in evaluation mode; `model`, a plain one, stays as it is.

    Against a model in QAT with the same scheme and scales no logit changes: weights and operations are the same.

    Raises:
        QuantisationError: see `pack`.
        CheckpointError: a packing of another model.
    """
    packing = how if isinstance(how, Packing) else pack(model, how)
    packing.check(model.architecture)
    weights = packing.weights(model)
    deployed = HybridLM(model.architecture).requires_grad_(False).eval()
    names = deployed.state_dict()
    deployed.load_state_dict({name: weights[name] for name in names})
    rounds = packing.scheme.activations
    for name, module in deployed.named_modules():
        if isinstance(module, TiedEmbedding):
            module.__class__ = QuantisedEmbedding
            module.register_buffer("head", weights[HEAD], persistent=False)
            module.rounds_activations = rounds and HEAD in packing.integers  # type: ignore[assignment]
        elif isinstance(module, nn.Linear):
            module.__class__ = QuantisedLinear
            module.rounds_activations = rounds and f"{name}.weight" in packing.integers  # type: ignore[assignment]
    return deployed
