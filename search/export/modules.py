"""The model as it is deployed: the same function as `trainer.model`, written so that XNNPACK takes all of it.

The rules, each measured on ExecuTorch 1.4.1: an RMS norm's mean is a linear layer (XNNPACK refuses `mean` over the
last axis); B, C and x have projections of their own (a fused one leaves a split outside the delegate); the depthwise
convolution is a `conv1d` over the state joined with the new positions; attention from the projections on is one
operator of our runner's, or for runners without it `llama.update_cache` and `llama.custom_sdpa`. Outside the delegate
remain those, the embedding, and slices (of the portable attention's RoPE, of the convolution's state).

Every module takes x [1, S, d] with 1 <= S <= chunk, and gives (y, *returned states).
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 - registers torch.ops.llama
from torch import Tensor, nn
from torch.nn import functional as F
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
    IntxUnpackedToInt8Tensor,
    IntxUnpackedToInt8TensorActivationQuantization,
)

from device_agent.contracts import MatrixPrecision, Quantisation
from search.export import attention  # noqa: F401 - registers torch.ops.fulcrum
from trainer.architecture import Rope
from trainer.precision import Precision
from trainer.quantise import quantise_weight
from trainer.rope import attention_factor, frequencies

Weights = Mapping[str, Tensor]

_INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009 - torch's stubs do not know it


def _intx(weight: Tensor, precision: MatrixPrecision, scale: Tensor | None, activations: bool) -> nn.Parameter:
    rounded = quantise_weight(weight, Precision(bits=precision.bits, group_size=precision.group_size), scale)
    dynamic = IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN if activations else None
    tensor = IntxUnpackedToInt8Tensor(
        rounded.q,
        rounded.scale,
        torch.zeros_like(rounded.scale, dtype=torch.int8),
        _INT4 if precision.bits == 4 else torch.int8,
        (1, precision.group_size or weight.shape[1]),
        torch.float32,
        dynamic,
    )
    return nn.Parameter(tensor, requires_grad=False)


def _linears(weights: Weights, name: str, quantisation: Quantisation, parts: int = 1) -> list[nn.Linear]:
    """The matrix `name`, its outputs cut into `parts`; rounded with the scales under `name` and ".scale", if any."""
    precision = quantisation.matrices.get(name, quantisation.weights)
    scales: Sequence[Tensor | None] = [None] * parts
    if f"{name}.scale" in weights:
        scales = weights[f"{name}.scale"].chunk(parts)
    layers = []
    for weight, scale in zip(weights[name].chunk(parts), scales, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        if precision.bits == 32:
            layer.weight = nn.Parameter(weight, requires_grad=False)
        else:
            layer.weight = _intx(weight, precision, scale, quantisation.activation_bits == 8)
        layers.append(layer)
    return layers


def _linear(weights: Weights, name: str, quantisation: Quantisation) -> nn.Linear:
    return _linears(weights, name, quantisation)[0]


class Norm(nn.Module):
    """RMSNorm (arXiv 1910.07467) over the last axis."""

    mean: Tensor

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("mean", torch.full((1, weight.shape[0]), 1 / weight.shape[0]))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        return x * torch.rsqrt(F.linear(x * x, self.mean) + self.eps) * self.weight


class Embedding(nn.Module):
    """Token ids int64 [1, S] -> x [1, S, d]."""

    def __init__(self, weights: Weights, quantisation: Quantisation) -> None:
        super().__init__()
        weight = weights["weight"]
        self.table = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
        precision = quantisation.matrices.get("weight", quantisation.embedding)
        if precision.bits == 32:
            self.table.weight = nn.Parameter(weight, requires_grad=False)
        else:
            self.table.weight = _intx(weight, precision, weights.get("weight.scale"), activations=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Look up."""
        return (self.table(tokens),)


class Conv(nn.Module):
    """Gated short convolution with its norm and residual; state: the last k-1 gated inputs [1, k-1, d]."""

    def __init__(self, weights: Weights, eps: float, quantisation: Quantisation) -> None:
        super().__init__()
        self.norm = Norm(weights["norm"], eps)
        self.b, self.c, self.x = _linears(weights, "in_proj", quantisation, parts=3)
        self.out = _linear(weights, "out_proj", quantisation)
        self.kernel = nn.Parameter(weights["conv"], requires_grad=False)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """(x [1, S, d], state) -> (y, next state)."""
        h = self.norm(x)
        joined = torch.cat([state, self.b(h) * self.x(h)], dim=1)
        z = F.conv1d(joined.transpose(1, 2), self.kernel, groups=joined.shape[2]).transpose(1, 2)
        return x + self.out(self.c(h) * z), joined[:, -state.shape[1] :]


class Attention(nn.Module):
    """GQA with per-head QK-norm and RoPE; state: keys and values [1, L, kv_heads, head_dim], written in place."""

    def __init__(self, weights: Weights, heads: int, eps: float, quantisation: Quantisation) -> None:
        super().__init__()
        self.norm = Norm(weights["norm"], eps)
        self.q = _linear(weights, "q_proj", quantisation)
        self.k = _linear(weights, "k_proj", quantisation)
        self.v = _linear(weights, "v_proj", quantisation)
        self.out = _linear(weights, "out_proj", quantisation)
        self.heads = heads
        self.head_dim = weights["q_norm"].shape[0]
        self.kv_heads = weights["k_proj"].shape[0] // self.head_dim


class FusedAttention(Attention):
    """All between the projections in one operator of our native runner, over a cache of float16 or int8.

    In an int8 cache the scales of both [1, L, kv_heads] follow. YaRN's temperature, which queries and keys are both
    multiplied by, is in the weights of their norms.
    """

    eps: Tensor
    frequencies: Tensor

    def __init__(self, weights: Weights, heads: int, eps: float, rope: Rope, quantisation: Quantisation) -> None:
        super().__init__(weights, heads, eps, quantisation)
        factor = 1.0 if rope.yarn is None else attention_factor(rope.yarn)
        self.q_norm = nn.Parameter(weights["q_norm"] * factor, requires_grad=False)
        self.k_norm = nn.Parameter(weights["k_norm"] * factor, requires_grad=False)
        self.register_buffer("eps", torch.tensor([eps], dtype=torch.float32))
        self.register_buffer("frequencies", frequencies(self.head_dim, rope))

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        keys: Tensor,
        values: Tensor,
        key_scales: Tensor | None = None,
        value_scales: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """(x [1, S, d], position int64 [1] of the first row, caches) -> (y,)."""
        h = self.norm(x)
        given = (self.q(h), self.k(h), self.v(h), self.q_norm, self.k_norm, self.eps, self.frequencies, position)
        if key_scales is None:
            y = torch.ops.fulcrum.roped_attention(*given, keys, values)
        else:
            y = torch.ops.fulcrum.roped_attention_int8(*given, keys, values, key_scales, value_scales)
        return (x + self.out(y),)


class PortableAttention(Attention):
    """Of the operators that every ExecuTorch runtime brings, over a cache of float32; `rope` is [L, head_dim / 2]."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, weights: Weights, heads: int, eps: float, rope: tuple[Tensor, Tensor], quantisation: Quantisation
    ) -> None:
        super().__init__(weights, heads, eps, quantisation)
        self.q_norm = Norm(weights["q_norm"], eps)
        self.k_norm = Norm(weights["k_norm"], eps)
        self.register_buffer("cos", rope[0])
        self.register_buffer("sin", rope[1])

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x[..., : self.head_dim // 2], x[..., self.head_dim // 2 :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """(x [1, S, d], position int64 [1] of the first row, caches) -> (y,)."""
        length = x.shape[1]
        start = cast(int, position[0].item())
        torch._check(start >= 0)
        torch._check(start + length <= keys.shape[1])
        h = self.norm(x)
        q = self.q_norm(self.q(h).view(1, length, self.heads, self.head_dim))
        k = self.k_norm(self.k(h).view(1, length, self.kv_heads, self.head_dim))
        v = self.v(h).view(1, length, self.kv_heads, self.head_dim)
        cos, sin = (table.narrow(0, start, length)[:, None] for table in (self.cos, self.sin))
        torch.ops.llama.update_cache(self._rotate(k, cos, sin), keys, start)
        torch.ops.llama.update_cache(v, values, start)
        y = torch.ops.llama.custom_sdpa(self._rotate(q, cos, sin), keys, values, start, None, 0.0, True)
        return (x + self.out(y.reshape(1, length, self.heads * self.head_dim)),)


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202) with its norm and residual."""

    def __init__(self, weights: Weights, eps: float, quantisation: Quantisation) -> None:
        super().__init__()
        self.norm = Norm(weights["norm"], eps)
        self.w1, self.w2, self.w3 = (_linear(weights, name, quantisation) for name in ("w1", "w2", "w3"))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[1, S, d] -> [1, S, d]."""
        h = self.norm(x)
        return (x + self.w2(F.silu(self.w1(h)) * self.w3(h)),)


class Head(nn.Module):
    """The last position's logits [1, 1, V]."""

    def __init__(self, weights: Weights, eps: float, quantisation: Quantisation) -> None:
        super().__init__()
        self.norm = Norm(weights["norm"], eps)
        given = quantisation.matrices.get("weight", quantisation.head)
        self.out = _linear(weights, "weight", quantisation.model_copy(update={"matrices": {"weight": given}}))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[1, S, d] -> [1, 1, V]."""
        return (self.out(self.norm(x[:, -1:])),)


class Chain(nn.Module):
    """Pieces one after the other as one module: (tokens, position, *states) -> (logits, *returned states)."""

    def __init__(self, pieces: list[nn.Module], arity: list[tuple[bool, int]]) -> None:
        super().__init__()
        self.pieces = nn.ModuleList(pieces)
        self.arity = arity

    def forward(self, tokens: Tensor, position: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """`arity` says of each piece whether it takes the position, and how many states."""
        x, returned, taken = tokens, [], 0
        for piece, (takes_position, count) in zip(self.pieces, self.arity, strict=True):
            own = states[taken : taken + count]
            taken += count
            x, *new = piece(x, position, *own) if takes_position else piece(x, *own)
            returned += new
        return (x, *returned)
