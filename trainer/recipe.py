"""How a training goes: its length, its batches, its rates. Free of torch: a server checks it before anything runs."""

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """How long and how fast to train. `tokens` is the dial; the rest follows it or rarely needs a change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(ge=1, description="Tokens to train on: the effort")
    batch: int = Field(default=8, ge=1, description="Sequences a step")
    sequence: int = Field(default=128, ge=8, description="Tokens a sequence")
    learning_rate: float = Field(default=1.2e-2, gt=0, description="Of the embedding; matrices take 40/width of it")
    warmup: float = Field(default=0.05, ge=0, le=1, description="Share of the steps over which the rate rises")
    decay: float = Field(default=0.5, ge=0, le=1, description="Share of the steps over which the rate falls to zero")
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient")
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps; at least one."""
        return max(1, round(self.tokens / (self.batch * self.sequence)))

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: warm-up, stable, decay (arXiv 2404.06395)."""
        rising = (step + 1) / max(1.0, self.warmup * self.steps)
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rising, falling)
