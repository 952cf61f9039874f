"""A SearchSpec: what a user asks for. Space, budgets, objectives, phones, effort."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from device_agent.contracts import Protocol, Quantisation, Sha256
from search.numerics import CannotBeLowered, refuse_unlowerable

Objective = Literal["quality", "decode", "memory"]
OperatorName = Literal["conv", "attention"]
Placement = Literal["early", "uniform", "late"]
Width = Annotated[int, Field(ge=32, le=16_384, multiple_of=32)]
Depth = Annotated[int, Field(ge=1, le=256)]
Ratio = Annotated[float, Field(gt=0, le=32)]
Share = Annotated[float, Field(ge=0, le=1)]
Heads = Annotated[int, Field(ge=1, le=512)]
Kernel = Annotated[int, Field(ge=2, le=16)]
Name = Annotated[str, Field(pattern=r"^[^\x00]{1,128}$")]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Budgets(_Spec):
    """Bounds that the winner keeps on every phone of the search; None means unbounded."""

    decode_ms: float | None = Field(default=None, gt=0, description="Median milliseconds per decoded token")
    ttft_ms: float | None = Field(default=None, gt=0, description="Time to first token at the protocol's prompt length")
    peak_memory_mb: float | None = Field(
        default=None, gt=0, description="Peak memory above the empty runner, 10^6 bytes"
    )


class SearchSpace(_Spec):
    """What may vary: ordinals, each a list of choices in rising order."""

    operators: tuple[OperatorName, ...] = Field(default=("conv", "attention"), min_length=1)
    width: tuple[Width, ...] = Field(default=(128, 192, 256), min_length=1)
    depth: tuple[Depth, ...] = Field(default=(4, 6, 8), min_length=1)
    ffn_ratio: tuple[Ratio, ...] = Field(default=(2.0, 3.0), min_length=1)
    attention_share: tuple[Share, ...] = Field(default=(0.0, 0.25, 0.5), min_length=1)
    placement: tuple[Placement, ...] = Field(default=("early", "uniform", "late"), min_length=1)
    head_dim: Literal[32, 64, 128] = 32
    kv_heads: tuple[Heads, ...] = Field(default=(1, 2), min_length=1)
    kernel: tuple[Kernel, ...] = Field(default=(3,), min_length=1)

    @model_validator(mode="after")
    def _shapes_are_possible(self) -> "SearchSpace":
        for width in self.width:
            if width % self.head_dim:
                raise ValueError(f"width {width} must be a multiple of head_dim ({self.head_dim})")
        return self


class Effort(_Spec):
    """How much work goes into the search. The proxy training scores a candidate's quality."""

    candidates: int = Field(default=16, ge=1, le=100_000)
    batch: int = Field(
        default=4, ge=1, le=1024, description="Candidates proposed, exported, measured and scored together"
    )
    finalists: int = Field(
        default=3, ge=0, le=16, description="Feasible candidates measured again before the verdict; 0 for none"
    )
    block_times: bool = Field(
        default=True, description="One more run per candidate that times its blocks, to predict latency by them"
    )
    proxy_tokens: int = Field(default=80_000, ge=1_000, le=10**12)
    proxy_sequence: int = Field(default=128, ge=16, le=65_536)


class SearchSpec(_Spec):
    """The body of `POST /v1/searches`."""

    name: str = Field(default="search", pattern=r"^[A-Za-z0-9 ._\-]{1,64}$")
    corpus: Name = Field(description="Id of a corpus registered with the server")
    tokenizer: Sha256 | None = Field(
        default=None, description="An uploaded tokenizer.json; without it one is trained on the corpus"
    )
    phones: tuple[Name, ...] = Field(min_length=1, description="Serials of registered phones; budgets hold on each")
    budgets: Budgets = Budgets()
    objectives: tuple[Objective, ...] = Field(default=("quality", "decode", "memory"), min_length=1)
    space: SearchSpace = SearchSpace()
    effort: Effort = Effort()
    protocol: Protocol = Protocol()
    quantisation: Quantisation = Quantisation()
    vocab_size: int = Field(default=2048, ge=257, le=262_144, description="At least 256 bytes and the end of text")
    context_length: int = Field(default=512, ge=32, le=131_072)
    prefill_chunk: int = Field(default=128, ge=1, le=131_072)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _groups_divide(self) -> "SearchSpec":
        group = self.quantisation.group_size
        precisions = (self.quantisation.weights, self.quantisation.embedding, self.quantisation.head)
        for width in self.space.width if any(precision.bits == 4 for precision in precisions) else ():
            if width % group:
                raise ValueError(f"width {width} must be a multiple of the quantisation's group_size ({group})")
        return self

    @model_validator(mode="after")
    def _numerics_can_be_lowered(self) -> "SearchSpec":
        if self.quantisation.matrices:
            raise ValueError("candidates differ in their matrices: quantisation.matrices belongs to one model")
        try:
            refuse_unlowerable(self.quantisation)
        except CannotBeLowered as wrong:
            raise ValueError(f"{wrong.message} {wrong.advice}") from wrong
        return self

    @model_validator(mode="after")
    def _protocol_fits(self) -> "SearchSpec":
        needed = self.protocol.prefill_tokens + self.protocol.decode_tokens
        if needed > self.context_length:
            raise ValueError(f"the protocol needs {needed} positions, but context_length is {self.context_length}")
        if self.prefill_chunk > self.context_length:
            raise ValueError(
                f"prefill_chunk ({self.prefill_chunk}) is more than context_length ({self.context_length})"
            )
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("an objective is named twice")
        if len(set(self.phones)) != len(self.phones):
            raise ValueError("a phone is named twice")
        return self
