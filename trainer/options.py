"""What can be chosen of the stages that quantise. Free of torch: a server checks it before anything runs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.precision import EIGHT, FOUR, Precision, Scheme

CANDIDATES = (Precision(bits=4, group_size=128), Precision(bits=4, group_size=64), FOUR, EIGHT)


class _Rounded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Scheme = Scheme()
    byte_budget: int | None = Field(
        default=None, ge=1, description="Of all matrices in a Program: choose the precision of each by what it costs"
    )
    candidates: tuple[Precision, ...] = Field(
        default=CANDIDATES, min_length=1, description="Precisions to choose from under a budget"
    )
    calibration_windows: int = Field(default=64, ge=1, le=65_536, description="Windows of training text to look at")


class QatOptions(_Rounded):
    """Of quantisation-aware training."""

    scales: Literal["absmax", "searched", "learned"] = Field(
        default="absmax",
        description="Of the largest weight of a group at every step; searched before the first; or searched, then LSQ",
    )
    distillation: float = Field(default=0.5, ge=0, le=1, description="Share of the loss that is self-distillation")
    masters: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Type of the weights that are trained, and of their moments in the optimiser"
    )
    stochastic_rounding: bool = Field(
        default=True, description="Round what is kept in bfloat16 stochastically; to nearest without"
    )
    stochastic_forward: bool = Field(
        default=False, description="Round the weights of the forward pass stochastically while training"
    )


class PtqOptions(_Rounded):
    """Of quantisation after training."""

    method: Literal["nearest", "gptq"] = "gptq"
    scales: Literal["absmax", "searched"] = "searched"
