"""Pieces: what a Program is composed of, each named by everything that determines its lowered bytes."""

import hashlib
import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypedDict

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from device_agent.contracts import KvCache, Quantisation, Sha256, StateSpec, content_hash
from device_agent.contracts.base import Wire
from search.errors import NoTemplate
from search.numerics import refuse_unlowerable
from trainer.architecture import Architecture, Rope, ShortConv
from trainer.precision import EMBEDDING, HEAD
from trainer.rope import tables

if TYPE_CHECKING:
    from search.export import modules
else:

    class _Late:
        """The module, imported when first used: it brings all of ExecuTorch, and pieces that are known need none."""

        def __getattr__(self, name: str) -> object:
            return getattr(importlib.import_module("search.export.modules"), name)

    modules = _Late()

# What is lowered is written in these; a change of one makes every old file, and every template, another's.
_LOWERED_BY = ("attention", "cuts", "lower", "modules", "packing")


@cache
def toolchain() -> dict[str, str]:
    """The versions that determine what lowering gives; of our own files, their content."""
    libraries = {name: importlib.metadata.version(name) for name in ("executorch", "torch", "torchao")}
    ours = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in _LOWERED_BY)
    return libraries | {"ours": hashlib.sha256(ours).hexdigest()}


_PERIOD = 1_000_003

_COMMON: tuple[dict[str, float], dict[str, float]] = (
    {"width": 160, "chunk": 26, "group_size": 32},
    {"width": 704, "chunk": 46, "group_size": 64},
)


class BasePiece(Wire, ABC):
    """What all pieces have."""

    width: int
    chunk: int
    quantisation: Quantisation

    # Two settings of every number, at which a template is learnt: valid, also where some numbers are 1, and such that
    # different expressions in them come out differently (`explain` refuses what it cannot tell apart).
    LEARNT_AT: ClassVar[tuple[dict[str, Any], dict[str, Any]]]

    @classmethod
    def _numbers(cls, kind: type) -> list[str]:
        return [name for name, field in cls.model_fields.items() if field.annotation is kind]

    def dimensions(self) -> dict[str, int]:
        """The whole numbers that say how large it is: its lowered form differs in what follows from them."""
        own = {name: getattr(self, name) for name in self._numbers(int)}
        return own | {"group_size": self.quantisation.group_size}

    def scalars(self) -> dict[str, float]:
        """The other numbers, which are data of its lowered form."""
        return {name: getattr(self, name) for name in self._numbers(float)}

    def settings(self) -> tuple[Self, Self]:
        """Two pieces that are lowered to the same graph as this one, and differ in all their numbers.

        What is 1 stays 1: torch traces another graph for it.

        Raises:
            NoTemplate: its matrices have groups of several sizes, which the settings would have to tell apart.
        """
        if {p.group_size for p in self.quantisation.matrices.values()} - {None, self.quantisation.group_size}:
            raise NoTemplate("groups of several sizes in one piece")
        first, second = (self._at(_COMMON[i] | numbers) for i, numbers in enumerate(self.LEARNT_AT))
        return first, second

    def _at(self, numbers: dict[str, Any]) -> Self:
        group = {"group_size": numbers["group_size"]}
        alike = {
            name: p.model_copy(update=group) if p.group_size == self.quantisation.group_size else p
            for name, p in self.quantisation.matrices.items()
        }
        quantisation = self.quantisation.model_copy(update=group | {"matrices": alike})
        others = {name: 1 if getattr(self, name) == 1 else numbers[name] for name in numbers if name != "group_size"}
        return self.model_copy(update=others | {"quantisation": quantisation})

    @property
    def template_key(self) -> Sha256:
        """The name of the template that gives this piece."""
        return content_hash(
            {"toolchain": toolchain(), "template": self._at(_COMMON[0] | self.LEARNT_AT[0]).model_dump(mode="json")}
        )

    @property
    def key(self) -> Sha256:
        """The name under which lowered bytes are kept, when their values do not matter (random weights)."""
        return content_hash({"toolchain": toolchain(), "piece": self.model_dump(mode="json")})

    def random_weights(self) -> "modules.Weights":
        """Weights of the right shapes, the same in every run: timing depends on shapes alone.

        A million normal numbers over and over: drawing every one of a large vocabulary's takes longer than all else.
        Their number is a prime, so that no two matrices are the same and would be kept once.
        """
        period = torch.randn(_PERIOD, generator=torch.Generator().manual_seed(0))
        weights: dict[str, Tensor] = {}
        start = 0
        for name, shape in self.shapes().items():
            weights[name] = torch.ones(shape)
            if len(shape) > 1:
                _repeat(period, start, weights[name].view(-1))
                weights[name] *= shape[-1] ** -0.5
                start += weights[name].numel()
        return weights

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by name."""

    @abstractmethod
    def module(self, weights: "modules.Weights") -> nn.Module:
        """The deployed module over these weights."""

    def states(self) -> tuple[StateSpec, ...]:
        """The state that it carries."""
        return ()

    @property
    def takes_position(self) -> bool:
        """Whether the position of the first row is an input."""
        return False

    @property
    def _example_length(self) -> int:
        return min(self.chunk, max(2, self.chunk // 2))

    def example(self) -> Tensor:
        """An input of a length that no rule singles out, where there is more than one."""
        return torch.zeros(1, self._example_length, self.width)


class EmbeddingPiece(BasePiece):
    """Token ids to vectors."""

    kind: Literal["embedding"] = "embedding"
    vocab_size: int

    LEARNT_AT = ({"vocab_size": 346}, {"vocab_size": 794})

    @override
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.vocab_size, self.width)}

    @override
    def module(self, weights: "modules.Weights") -> nn.Module:
        return modules.Embedding(weights, self.quantisation)

    @override
    def example(self) -> Tensor:
        return torch.zeros(1, self._example_length, dtype=torch.int64)


class ConvPiece(BasePiece):
    """A gated short convolution."""

    kind: Literal["conv"] = "conv"
    kernel: int
    eps: float

    LEARNT_AT = ({"kernel": 5, "eps": 1e-5}, {"kernel": 9, "eps": 3e-6})

    @override
    def shapes(self) -> dict[str, tuple[int, ...]]:
        d = self.width
        return {"norm": (d,), "in_proj": (3 * d, d), "conv": (d, 1, self.kernel), "out_proj": (d, d)}

    @override
    def module(self, weights: "modules.Weights") -> nn.Module:
        return modules.Conv(weights, self.eps, self.quantisation)

    @override
    def states(self) -> tuple[StateSpec, ...]:
        return (StateSpec(name="conv", shape=(1, self.kernel - 1, self.width), update="returned"),)


class AttentionPiece(BasePiece):
    """Grouped-query attention over a cache of `context` positions."""

    kind: Literal["attention"] = "attention"
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope: Rope
    eps: float
    kv_cache: KvCache = "float32"

    LEARNT_AT = (
        {"heads": 9, "kv_heads": 3, "head_dim": 224, "context": 134, "rope": Rope(theta=1e4), "eps": 1e-5},
        {"heads": 10, "kv_heads": 5, "head_dim": 192, "context": 202, "rope": Rope(theta=3e5), "eps": 3e-6},
    )

    @override
    def shapes(self) -> dict[str, tuple[int, ...]]:
        d, q, kv = self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim
        head = (self.head_dim,)
        projections = {"q_proj": (q, d), "k_proj": (kv, d), "v_proj": (kv, d), "out_proj": (d, q)}
        return {"norm": (d,), **projections, "q_norm": head, "k_norm": head}

    @override
    def module(self, weights: "modules.Weights") -> nn.Module:
        if self.kv_cache != "float32":
            return modules.FusedAttention(weights, self.heads, self.eps, self.rope, self.quantisation)
        cos, sin = (
            table[:, : self.head_dim // 2].contiguous()
            for table in tables(torch.arange(self.context), self.head_dim, self.rope)
        )
        return modules.PortableAttention(weights, self.heads, self.eps, (cos, sin), self.quantisation)

    @override
    def states(self) -> tuple[StateSpec, ...]:
        scales = (1, self.context, self.kv_heads)
        shapes = {"keys": (*scales, self.head_dim), "values": (*scales, self.head_dim)}
        states = [StateSpec(name=n, shape=s, dtype=self.kv_cache, update="in_place") for n, s in shapes.items()]
        if self.kv_cache == "int8":
            states += [StateSpec(name=f"{n}_scales", shape=scales, update="in_place") for n in shapes]
        return tuple(states)

    @property
    @override
    def takes_position(self) -> bool:
        return True


class FeedForwardPiece(BasePiece):
    """A SwiGLU."""

    kind: Literal["ffn"] = "ffn"
    ffn_width: int
    eps: float

    LEARNT_AT = ({"ffn_width": 352, "eps": 1e-5}, {"ffn_width": 832, "eps": 3e-6})

    @override
    def shapes(self) -> dict[str, tuple[int, ...]]:
        d, f = self.width, self.ffn_width
        return {"norm": (d,), "w1": (f, d), "w2": (d, f), "w3": (f, d)}

    @override
    def module(self, weights: "modules.Weights") -> nn.Module:
        return modules.FeedForward(weights, self.eps, self.quantisation)


class HeadPiece(BasePiece):
    """The final norm and the output projection."""

    kind: Literal["head"] = "head"
    vocab_size: int
    eps: float

    LEARNT_AT = ({"vocab_size": 346, "eps": 1e-5}, {"vocab_size": 794, "eps": 3e-6})

    @override
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"norm": (self.width,), "weight": (self.vocab_size, self.width)}

    @override
    def module(self, weights: "modules.Weights") -> nn.Module:
        return modules.Head(weights, self.eps, self.quantisation)


def _repeat(period: Tensor, start: int, into: Tensor) -> None:
    """Fill `into` with the endless repetition of `period` from `start` on."""
    for i in range(-(start % len(period)), len(into), len(period)):
        part = into[max(i, 0) : i + len(period)]
        part.copy_(period[max(-i, 0) :][: len(part)])


Piece = Annotated[
    EmbeddingPiece | ConvPiece | AttentionPiece | FeedForwardPiece | HeadPiece, Field(discriminator="kind")
]


class _Common(TypedDict):
    width: int
    chunk: int
    quantisation: Quantisation


def pieces_of(
    architecture: Architecture, *, context: int, chunk: int, quantisation: Quantisation, kv_cache: KvCache = "float32"
) -> Iterator[tuple[str, Piece, dict[str, str]]]:
    """(name, piece, weight name -> parameter name of `trainer.model`), in the order of the chain.

    An operator and its FFN are pieces of their own: distinct pieces then add where distinct blocks would multiply.

    Raises:
        CannotBeLowered: the phone's kernels have no operator for these numerics.
    """
    refuse_unlowerable(quantisation)
    a = architecture

    def common(names: dict[str, str]) -> _Common:
        exceptions = {
            short: quantisation.matrices[long] for short, long in names.items() if long in quantisation.matrices
        }
        own = quantisation.model_copy(update={"matrices": exceptions})
        return _Common(width=a.width, chunk=chunk, quantisation=own)

    names = {"weight": EMBEDDING}
    yield "embedding", EmbeddingPiece(**common(names), vocab_size=a.vocab_size), names
    for i, block in enumerate(a.blocks):
        layer = f"model.layers.{i}"
        names = {"norm": f"{layer}.operator_norm.weight"}
        if isinstance(block, ShortConv):
            names |= {name: f"{layer}.conv.{name}.weight" for name in ("in_proj", "conv", "out_proj")}
            yield f"layers.{i}.conv", ConvPiece(**common(names), kernel=block.kernel, eps=a.norm_eps), names
        else:
            at = f"{layer}.self_attn"
            names |= {name: f"{at}.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
            names |= {"q_norm": f"{at}.q_layernorm.weight", "k_norm": f"{at}.k_layernorm.weight"}
            attention = AttentionPiece(
                **common(names),
                heads=block.heads,
                kv_heads=block.kv_heads,
                head_dim=block.head_dim,
                context=context,
                rope=a.rope,
                eps=a.norm_eps,
                kv_cache=kv_cache,
            )
            yield f"layers.{i}.attention", attention, names
        names = {"norm": f"{layer}.ffn_norm.weight"}
        names |= {name: f"{layer}.feed_forward.{name}.weight" for name in ("w1", "w2", "w3")}
        yield f"layers.{i}.ffn", FeedForwardPiece(**common(names), ffn_width=a.ffn_width, eps=a.norm_eps), names
    head = HeadPiece(**common({"weight": HEAD}), vocab_size=a.vocab_size, eps=a.norm_eps)
    yield "head", head, {"norm": "model.embedding_norm.weight", "weight": EMBEDDING if a.tied else HEAD}


def weights_of(piece: Piece, weights: "modules.Weights", names: dict[str, str]) -> dict[str, Tensor]:
    """A piece's own weights out of a model's or a `Packing`'s, with the scales that come beside them."""
    if piece.kind == "head" and HEAD in weights:
        names = {**names, "weight": HEAD}  # a tied matrix may be rounded one way to be read, and another to be written
    own = {short: weights[long] for short, long in names.items()}
    scales = {f"{short}.scale": f"{long}.scale" for short, long in names.items()}
    return own | {short: weights[long] for short, long in scales.items() if long in weights}
