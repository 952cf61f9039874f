"""What is rounded to how many bits: a Scheme gives every matrix of a model its Precision. Free of torch.

A matrix is known by its role: the name of its parameter in `trainer.model`. The matrix that writes logits has the role
`lm_head.weight` also where it is tied to the embedding, because the two may be rounded differently.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.architecture import Architecture, ShortConv
from trainer.errors import QuantisationError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Bits = Literal[4, 8, 32]

_BFLOAT16, _FLOAT32 = 2, 4


class Precision(BaseModel):
    """Integers of 4 bits, one scale per `group_size` inputs; of 8 bits, one scale per row; or 32: float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: Bits = 4
    group_size: int | None = Field(
        default=None, ge=32, le=16_384, multiple_of=32, description="32 where 4 bits omit it"
    )

    @model_validator(mode="before")
    @classmethod
    def _groups_belong_to_four_bits(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        bits, group = given.get("bits", 4), given.get("group_size")
        if bits == 4 and group is None:
            return {**given, "group_size": 32}
        if bits != 4 and group is not None:
            raise ValueError(f"only 4 bits have groups: {bits} bits have one scale per row, or none")
        return given

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """From what `str` gives: "4g64", "8", "32"; "4" has groups of 32.

        Raises:
            QuantisationError: anything else.
        """
        found = re.fullmatch(r"(4|8|32)(?:g(\d{1,5}))?", text.strip())
        try:
            if found:
                return cls.model_validate({"bits": int(found[1]), "group_size": int(found[2]) if found[2] else None})
        except ValueError:
            pass
        raise QuantisationError(
            f"{text!r} is no precision", advice="say 4g32, 4g64, 4g128 (4 bits in groups of so many inputs), 8 or 32"
        )

    def __str__(self) -> str:
        return str(self.bits) if self.group_size is None else f"{self.bits}g{self.group_size}"

    def groups(self, role: str, inputs: int) -> int:
        """Scales per row of a matrix of so many inputs.

        Raises:
            QuantisationError: the groups do not divide the inputs.
        """
        if self.group_size is None:
            return 1
        if inputs % self.group_size:
            raise QuantisationError(
                f"groups of {self.group_size} do not divide the {inputs} inputs of {role}",
                advice=f"choose a group size that divides {inputs}, or another precision for this matrix",
            )
        return inputs // self.group_size


FOUR, EIGHT, FULL = Precision(), Precision(bits=8), Precision(bits=32)


class TensorBytes(NamedTuple):
    """What a matrix takes in a Program's file."""

    weights: int
    scales: int

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.scales


class Scheme(BaseModel):
    """The numerics of deployment: the precision of every matrix, and whether activations are rounded to 8 bits.

    Convolutions and norms stay in float32, and so do the activations of a matrix that is not rounded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Precision = FOUR
    embedding: Precision = Field(default=FOUR, description="Of the table that tokens are read from; usually as weights")
    head: Precision = Field(default=FOUR, description="Of the matrix that writes logits; usually as weights")
    activations: bool = True
    overrides: dict[str, Precision] = Field(default_factory=dict, description="By role; they win")

    @model_validator(mode="before")
    @classmethod
    def _as_weights(cls, given: object) -> object:
        if not isinstance(given, Mapping) or "weights" not in given:
            return given
        return {"embedding": given["weights"], "head": given["weights"], **given}

    def of(self, role: str) -> Precision:
        """The precision of a matrix."""
        usual = {EMBEDDING: self.embedding, HEAD: self.head}.get(role, self.weights)
        return self.overrides.get(role, usual)

    def bytes_of(self, role: str, shape: tuple[int, int]) -> TensorBytes:
        """What a matrix of `shape` [outputs, inputs] takes in a .pte file, as ExecuTorch 1.4.1 writes it.

        A scale of a 4-bit linear is a bfloat16; of an 8-bit linear, and of an embedding, a float32.

        Raises:
            QuantisationError: the groups do not divide the inputs.
        """
        precision, (rows, inputs) = self.of(role), shape
        if precision.bits == 32:
            return TensorBytes(rows * inputs * _FLOAT32, 0)
        width = _BFLOAT16 if precision.bits == 4 and role != EMBEDDING else _FLOAT32
        return TensorBytes(rows * inputs * precision.bits // 8, rows * precision.groups(role, inputs) * width)

    def bytes(self, architecture: Architecture) -> int:
        """Of all matrices of an architecture; a tied embedding counts twice, as a Program holds it.

        Raises:
            QuantisationError: see `check`.
        """
        self.check(architecture)
        return sum(self.bytes_of(role, shape).total for role, shape in matrices(architecture).items())

    def check(self, architecture: Architecture) -> None:
        """Raise QuantisationError where a group does not divide, or an override names no matrix."""
        known = matrices(architecture)
        if unknown := sorted(set(self.overrides) - set(known)):
            raise QuantisationError(
                f"no matrix of this architecture is called {unknown[0]}",
                advice=f"call matrices by their parameters, for example {next(iter(known))}",
            )
        for role, (_, inputs) in known.items():
            self.of(role).groups(role, inputs)

    def with_bits(self, precisions: Mapping[str, Precision]) -> "Scheme":
        """This scheme with `precisions` by role; what says nothing new is left out."""
        plain = self.model_copy(update={"overrides": {}})
        given = {**self.overrides, **precisions}
        overrides = {role: precision for role, precision in given.items() if plain.of(role) != precision}
        return self.model_copy(update={"overrides": overrides})


W4A8 = Scheme()
"""4 bits in groups of 32 throughout, activations in 8: torchao's 8da4w."""


def matrices(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """[outputs, inputs] of every matrix that may be rounded, by role, in the order of the model."""
    a, found = architecture, {EMBEDDING: (architecture.vocab_size, architecture.width)}
    for index, block in enumerate(a.blocks):
        layer = f"model.layers.{index}"
        if isinstance(block, ShortConv):
            shapes = {"conv.in_proj": (3 * a.width, a.width), "conv.out_proj": (a.width, a.width)}
        else:
            q, kv = block.heads * block.head_dim, block.kv_heads * block.head_dim
            shapes = {f"self_attn.{n}_proj": (q if n == "q" else kv, a.width) for n in "qkv"}
            shapes["self_attn.out_proj"] = (a.width, q)
        shapes |= {f"feed_forward.{n}": (a.ffn_width, a.width) for n in ("w1", "w3")}
        shapes["feed_forward.w2"] = (a.width, a.ffn_width)
        found |= {f"{layer}.{name}.weight": shape for name, shape in shapes.items()}
    return found | {HEAD: (a.vocab_size, a.width)}
