"""What can be chosen of reinforcement learning. Free of torch: a server checks it before anything runs."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.options import Lever
from trainer.rewards import AnyTasks, Arithmetic, Correct, Reward


class CurriculumOptions(BaseModel):
    """How levels are chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling: Literal["informative", "uniform"] = Field(
        default="informative", description="Levels whose answers tell most, from easy to hard; or all alike"
    )
    promote: float = Field(default=0.7, gt=0, lt=1, description="Success rate at which the next level is reached")
    least: float = Field(default=32.0, ge=1, description="Answers, counted with decay, before a level is passed")
    decay: float = Field(default=0.95, gt=0, lt=1, description="What a count keeps from step to step")
    floor: float = Field(
        default=0.2, gt=0, le=1, description="Weight of a mastered level and of the next one; of p = 1/2 it is 1"
    )


class RlOptions(Lever):
    """Of reinforcement learning with verified rewards."""

    tasks: AnyTasks = Field(default=Arithmetic(), description="Where problems are from, and who verifies answers")
    style: Literal["chat", "plain"] = Field(
        default="chat", description="A question to the assistant, or a text that is continued to the end of its line"
    )
    curriculum: CurriculumOptions = CurriculumOptions()
    rewards: tuple[Reward, ...] = Field(default=(Correct(),), min_length=1, description="Their weighted sum counts")
    samples: int = Field(default=8, ge=2, le=1024, description="Answers to a problem: the group")
    answer: int = Field(default=32, ge=1, description="Tokens an answer may have")
    temperature: float = Field(default=1.0, gt=0, le=100, description="Of the sampled answers")
    redraws: int = Field(
        default=2, ge=0, le=100, description="How often groups are drawn again whose answers are all worth the same"
    )
    ahead: int = Field(
        default=0,
        ge=0,
        le=8,
        description="Steps that answers are sampled ahead, beside the learning, by the policy of that moment",
    )
    updates: int = Field(default=1, ge=1, le=64, description="Passes over a step's answers")
    mini_batches: int = Field(default=1, ge=1, le=1024, description="Optimiser steps a pass")
    aggregation: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    ratio: Literal["token", "sequence"] = Field(default="token", description="Sequence, with grpo: GSPO")
    scale: Literal["group", "batch", "none"] = Field(
        default="group", description="By whose deviation advantages are divided; Dr. GRPO: none"
    )
    clip_low: float = Field(default=0.2, gt=0, le=1)
    clip_high: float = Field(default=0.28, gt=0, le=100, description="With cispo the largest weight itself, as 5")
    delta: float | None = Field(default=None, gt=1, description="Largest ratio of all (two-sided clipping)")
    kl: float = Field(default=0.0, ge=0, description="Weight of the KL to the model at the start; 0: none is computed")
    correction: float | None = Field(
        default=2.0, ge=1, description="Largest weight against the sampler's own probabilities; none without"
    )
    mask_truncated: bool = Field(default=False, description="Learn nothing from answers that reached their limit")
    held_out: int = Field(default=64, ge=1, le=100_000, description="Problems a level, before and after")

    @model_validator(mode="after")
    def _the_loss_is_one(self) -> Self:
        if self.ratio == "sequence" and self.aggregation != "grpo":
            raise ValueError("one ratio for a sequence goes with the aggregation grpo (GSPO)")
        if self.ahead and self.correction is None:
            raise ValueError("answers that are sampled ahead are an older policy's: give a correction, as 2")
        if self.aggregation == "cispo" and self.clip_high < 1:
            raise ValueError("with cispo, clip_high is the largest weight of a token: say at least 1, as 5")
        return self
