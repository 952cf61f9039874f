"""A Program: a manifest, and the .pte files that it names by sha256.

A Program is a chain of stages. Each stage is one method `forward` of one .pte file, with a dynamic sequence
length S from 1 to `prefill_chunk`, so prefill and decode are the same method over the same weights and state:

    stage(x, [position], *state) -> (y, *new state)

The first stage takes token ids int64 [1, S]; the last gives the logits float32 [1, 1, V] of the last position.
State belongs to the runner: an `in_place` state (a KV cache [1, L, kv_heads, head_dim]) is written through the
caller's memory; a `returned` state (a convolution's last k-1 inputs [1, k-1, d]) comes back as an output, in order.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from device_agent.contracts.base import Wire

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def canonical_json(value: BaseModel | Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def content_hash(value: BaseModel | Any) -> Sha256:
    """sha256 of `canonical_json(value)`, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class Quantisation(Wire):
    """The numerics of deployment, as torchao's 8da4w names them.

    Weights: symmetric integers of `weight_bits`, one bfloat16 scale per `group_size` inputs. Activations: 8-bit
    asymmetric per token, scales found at run time. `weight_bits=32` means float32 throughout.
    """

    weight_bits: Literal[4, 32] = 4
    group_size: int = Field(default=32, ge=32, le=16_384, multiple_of=32)
    activation_bits: Literal[8, 32] = 8
    embedding_bits: Literal[4, 32] = 4


class StateSpec(Wire):
    """One tensor of state that a stage carries from call to call; zero before the first token."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"
    update: Literal["in_place", "returned"]


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
    def hash(self) -> Sha256:
        """The Program's name: sha256 of its canonical manifest."""
        return content_hash(self)
