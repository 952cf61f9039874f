"""How a training goes: its length, its batches, its rates. Free of torch: a server checks it before anything runs."""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from trainer.architecture import Architecture

_TOKENS_A_PARAMETER = 20
_IN_MEMORY = 16_384  # tokens


class Spikes(BaseModel):
    """When a loss is a spike, and how often the state is saved that a training returns to then.

    A spike is a loss above median + threshold x 1.4826 MAD of the last `window` losses (1.4826 MAD is the standard
    deviation of a normal distribution), or no number. The training goes back to the last saved state and skips the
    batches from there to the spike (PaLM, arXiv 2204.02311, section 5.1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(default=64, ge=8, description="Losses that the next one is held against")
    threshold: float = Field(default=8.0, gt=0, description="Robust standard deviations above their median")
    every: int = Field(default=100, ge=1, description="Steps between saved states")
    most: int = Field(default=10, ge=1, description="Returns before the training is given up")


class Recipe(BaseModel):
    """How long and how fast to train. `tokens` is the dial; the rest follows it or rarely needs a change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(ge=1, description="Tokens to train on: the effort")
    batch: int = Field(default=8, ge=1, description="Sequences a step")
    micro_batch: int | None = Field(default=None, ge=1, description="Sequences in memory at once; all where not given")
    sequence: int = Field(default=128, ge=8, description="Tokens a sequence")
    optimiser: Literal["adamw", "muon"] = Field(default="adamw", description="Of the layers' matrices")
    schedule: Literal["stable", "cosine"] = Field(
        default="stable", description="After the warm-up: stable, then linear decay; or half a cosine"
    )
    learning_rate: float = Field(default=1.2e-2, gt=0, description="Of the embedding; others' follow (trainer.groups)")
    warmup: float = Field(default=0.05, ge=0, le=1, description="Share of the steps over which the rate rises")
    decay: float = Field(default=0.5, ge=0, le=1, description="Share of the steps over which a stable rate falls to 0")
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of activations and products; weights and moments are kept in float32"
    )
    checkpoint_activations: bool = Field(
        default=False, description="Compute layers twice rather than keep their insides"
    )
    compile: bool = Field(default=False, description="Compile the layers: minutes at the start, faster on a GPU")
    ema: float | None = Field(default=None, gt=0, lt=1, description="Decay of the average of the weights that results")
    spikes: Spikes | None = Field(default=None, description="Return to a saved state where the loss leaps; off without")
    evaluate_every: int | None = Field(default=None, ge=1, description="Steps between held-out figures; none without")
    seed: int = 0

    @classmethod
    def sized(cls, architecture: Architecture, effort: float = 1.0, *, sequence: int = 4096, **given: Any) -> Self:
        """A recipe for a model of any size, from one dial; fields that are `given` stay as they are.

        Tokens: 20 a parameter at effort 1 (Chinchilla, arXiv 2203.15556, table 3). Sequences a step: 0.292 C^0.3271
        tokens for C = 6 parameters x tokens operations (DeepSeek LLM, arXiv 2401.02954, eq. 3). What is in memory at
        once: 16,384 tokens. The rate is that of every size, because the parametrisation transfers it over width.
        """
        tokens = int(given.get("tokens", max(1, round(effort * _TOKENS_A_PARAMETER * architecture.parameters))))
        read = 0.292 * (6.0 * architecture.parameters * tokens) ** 0.3271
        batch = int(given.get("batch", max(1, round(read / sequence))))
        micro = max(1, _IN_MEMORY // sequence)
        derived = {"tokens": tokens, "batch": batch, "micro_batch": micro if micro < batch else None}
        return cls.model_validate({**derived, "sequence": sequence, **given})

    @property
    def steps(self) -> int:
        """Optimiser steps; at least one."""
        return max(1, round(self.tokens / (self.batch * self.sequence)))

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step.

        Warm-up, stable, decay (arXiv 2404.06395); or warm-up and a cosine to zero (arXiv 1608.03983).
        """
        warm = self.warmup * self.steps
        rising = (step + 1) / max(1.0, warm)
        if self.schedule == "cosine":
            done = max(0.0, step - warm) / max(1.0, self.steps - warm)
            return min(1.0, rising) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rising, falling)
