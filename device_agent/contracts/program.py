"""A Program: a manifest, and the .pte files that it names by sha256.

A Program is a chain of stages. Each stage is one method `forward` of one .pte file, with a dynamic sequence
length S from 1 to `prefill_chunk`, so prefill and decode are the same method over the same weights and state:

    stage(x, [position], *state) -> (y, *new state)

The first stage takes token ids int64 [1, S]; the last gives the logits float32 [1, 1, V] of the last position.
State belongs to the runner: an `in_place` state (a KV cache [1, L, kv_heads, head_dim], or its scales [1, L, kv_heads])
is written through the caller's memory, a row per position; a `returned` state (a convolution's last k-1 inputs
[1, k-1, d]) comes back as an output, in order.
"""

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from device_agent.contracts.base import Wire

KvCache = Literal["float32", "float16", "int8"]
_BYTES = {"float32": 4, "float16": 2, "int8": 1}

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def canonical_json(value: BaseModel | Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def content_hash(value: BaseModel | Any) -> Sha256:
    """sha256 of `canonical_json(value)`, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


Bits = Literal[4, 8, 32]


class MatrixPrecision(Wire):
    """How one matrix is rounded: 4 bits have one scale per `group_size` inputs, 8 bits one per row, 32 bits none."""

    bits: Bits
    group_size: int | None = Field(default=None, ge=32, le=16_384, multiple_of=32)

    @model_validator(mode="after")
    def _groups_belong_to_four_bits(self) -> "MatrixPrecision":
        if (self.bits == 4) != (self.group_size is not None):
            raise ValueError("4 bits need a group_size, and no other bits have one")
        return self


class Quantisation(Wire):
    """The numerics of deployment, as torchao's 8da4w names them.

    Weights: symmetric integers of `weight_bits`; of 4 bits with one bfloat16 scale per `group_size` inputs, of 8 with
    one per row. Activations: 8-bit asymmetric per token, scales found at run time. `weight_bits=32` means float32
    throughout. `matrices` are exceptions, by the names of the parameters in `trainer.model`; the matrix that writes
    logits is `lm_head.weight` there, tied or not.
    """

    weight_bits: Bits = 4
    group_size: int = Field(default=32, ge=32, le=16_384, multiple_of=32)
    activation_bits: Literal[8, 32] = 8
    embedding_bits: Bits = 4
    # What is not said is left out of the JSON: Programs keep the names they had before these fields were.
    head_bits: Bits | None = Field(default=None, exclude_if=lambda bits: bits is None, description="None: weight_bits")
    matrices: dict[str, MatrixPrecision] = Field(default_factory=dict, exclude_if=lambda given: not given)

    @property
    def weights(self) -> MatrixPrecision:
        """Of the layers' matrices."""
        return self._usual(self.weight_bits)

    @property
    def embedding(self) -> MatrixPrecision:
        """Of the table that tokens are read from, where `matrices` says nothing."""
        return self._usual(32 if self.weight_bits == 32 else self.embedding_bits)

    @property
    def head(self) -> MatrixPrecision:
        """Of the matrix that writes logits, where `matrices` says nothing."""
        return self._usual(self.head_bits or self.weight_bits)

    def _usual(self, bits: Bits) -> MatrixPrecision:
        return MatrixPrecision(bits=bits, group_size=self.group_size if bits == 4 else None)


class StateSpec(Wire):
    """One tensor of state that a stage carries from call to call; zero before the first token."""

    name: str
    shape: tuple[int, ...]
    dtype: KvCache = "float32"
    update: Literal["in_place", "returned"]

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return math.prod(self.shape) * _BYTES[self.dtype]


class StageSpec(Wire):
    """One call of the chain."""

    name: str
    file: Sha256
    takes_position: bool = False
    state: tuple[StateSpec, ...] = ()


class Program(Wire):
    """What is pushed to a phone and run there. Sizes are in bytes."""

    format: Literal[1] = 1
    layout: Literal["composed", "monolithic"]
    architecture: Sha256
    backend: Literal["xnnpack"] = "xnnpack"
    executorch: str
    quantisation: Quantisation
    vocab_size: int = Field(ge=2)
    context_length: int = Field(ge=1)
    prefill_chunk: int = Field(ge=1)
    planned_memory: int = Field(ge=0, description="Sum over stages of the arenas ExecuTorch plans ahead of time")
    files: dict[Sha256, int]
    stages: tuple[StageSpec, ...] = Field(min_length=1)

    @property
    def state_bytes(self) -> int:
        """What the state takes in memory, for the whole context."""
        return sum(state.bytes for stage in self.stages for state in stage.state)

    @property
    def kv_cache(self) -> KvCache | None:
        """How keys and values are kept; None where there are none."""
        kept = {state.dtype for stage in self.stages for state in stage.state if state.update == "in_place"}
        return next((dtype for dtype in ("int8", "float16", "float32") if dtype in kept), None)

    @property
    def hash(self) -> Sha256:
        """The Program's name: sha256 of its canonical manifest."""
        return content_hash(self)
