"""What curation is asked to do. Free of torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Curation(BaseModel):
    """Filters in the order they are applied; one that is None is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shortest: int = Field(default=1, ge=1, description="Characters of what the assistant says, at least")
    longest: int = Field(default=100_000, ge=1, description="Characters of a whole conversation, at most")
    quality: float | None = Field(default=1.0, ge=0, le=1, description="Share of the heuristics to pass")
    conflicts: Literal["list", "majority", "drop"] = Field(
        default="list", description="Different answers to one prompt: listed alone; the commonest stays; all go"
    )
    exact_duplicates: bool = True
    near_duplicates: float | None = Field(default=0.9, gt=0, le=1, description="Jaccard similarity of 5-grams of words")
    easiest: float | None = Field(default=None, ge=0, description="Nats a token of the answer, at least")
    hardest: float | None = Field(default=None, ge=0, description="Nats a token of the answer, at most")
    solved_least: float | None = Field(default=None, ge=0, le=1, description="Success rate of checkpoints, at least")
    solved_most: float | None = Field(default=None, ge=0, le=1, description="Success rate of checkpoints, at most")
    samples: int = Field(
        default=0, ge=0, le=1024, description="Answers of each checkpoint to every prompt whose answer can be verified"
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="Of these answers")
    max_tokens: int = Field(default=64, ge=1, description="Of such an answer")
    keep: int | None = Field(default=None, ge=1, description="So many that are as different as can be")
    order: bool = Field(default=True, description="Easy to hard, where checkpoints told how hard each is")
