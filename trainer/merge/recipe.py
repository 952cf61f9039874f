"""How models are merged. Free of torch: a server checks it before anything runs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Method = Literal[
    "linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear", "della", "model_stock"
]
WITHOUT_BASE = ("linear", "slerp")
_SPARSE = ("ties", "dare_linear", "dare_ties", "della_linear", "della")
_ELECTING = ("ties", "dare_ties", "della")
_AVERAGING = ("ties", "della")
_DELLA = ("della_linear", "della")


class MergeRecipe(BaseModel):
    """A method and its numbers; names and meanings as in mergekit, so that recipes carry over.

    linear: weighted mean (model soups, arXiv 2203.05482). slerp: along the arc between two models. task_arithmetic:
    base + scale * sum of weighted task vectors (2212.04089). ties: trimmed, signs elected, averaged where they agree
    (2306.01708). dare: task vectors dropped at random (2311.03099). della: dropped with a probability that falls with
    their rank in a row (2406.11617). model_stock: as far from the base as the angle between the models says
    (2403.19522).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "ties"
    weights: tuple[float, ...] | None = Field(default=None, description="One per model; equal ones without it")
    density: float = Field(default=0.5, gt=0, le=1, description="Share of each task vector that is kept")
    epsilon: float = Field(default=0.15, ge=0, lt=0.5, description="della: probabilities are density -+ this")
    scale: float = Field(default=1.0, description="Of the merged task vector")
    seed: int = Field(default=0, ge=0, description="Of what dare and della drop")

    @model_validator(mode="after")
    def _numbers_fit(self) -> "MergeRecipe":
        if self.method in _DELLA and self.density < 1 and not (self.epsilon < self.density < 1 - self.epsilon):
            raise ValueError(f"della needs density - epsilon > 0 and density + epsilon < 1, not {self.density}")
        if self.method == "model_stock" and self.weights is not None:
            raise ValueError("model_stock finds its own weights")
        if self.weights is not None and abs(sum(self.weights)) < 1e-8 and self.method in (*WITHOUT_BASE, "ties"):
            raise ValueError("weights that are divided by their sum must not sum to zero")
        if self.method == "slerp" and self.weights is not None and min(self.weights) < 0:
            raise ValueError("slerp goes between two models: no weight may be negative")
        return self

    @property
    def needs_base(self) -> bool:
        """Whether it works on what the models learnt since a common base."""
        return self.method not in WITHOUT_BASE

    @property
    def sparse(self) -> bool:
        """Whether it drops a part of every task vector."""
        return self.method in _SPARSE

    @property
    def elects_signs(self) -> bool:
        """Whether task vectors count only where they have the sign of the weighted majority."""
        return self.method in _ELECTING

    @property
    def averages(self) -> bool:
        """Whether the sum of task vectors is divided by the weights that counted."""
        return self.method in _AVERAGING
