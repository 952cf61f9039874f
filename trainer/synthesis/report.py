"""Yields and costs: what each step and filter saw, took away, and what had been paid for what it took."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from trainer.synthesis.candidate import Candidate


class Sieve(BaseModel):
    """One step or filter. Tokens and cost are those of what it removed."""

    seen: int = 0
    removed: int = 0
    tokens: int = 0
    cost: float = 0.0


class Report(BaseModel):
    """What a synthesis has reached; also its state on disk."""

    model_config = ConfigDict(extra="forbid")

    recipe: str
    identity: str
    seeds: int = 0
    examples: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0
    sieves: dict[str, Sieve] = Field(default_factory=dict)
    bytes: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def read(cls, out: Path) -> "Report":
        """Of a folder. Raises OSError, ValueError."""
        return cls.model_validate_json((out / "state.json").read_text(encoding="utf-8"))

    def see(self, name: str, count: int) -> None:
        """So many come to a step or filter."""
        self.sieves.setdefault(name, Sieve()).seen += count

    def remove(self, name: str, candidate: Candidate) -> None:
        """It takes one away."""
        sieve = self.sieves.setdefault(name, Sieve())
        sieve.removed += 1
        sieve.tokens += candidate.prompt_tokens + candidate.tokens
        sieve.cost += candidate.cost
        self._pay(candidate)

    def keep(self, candidate: Candidate) -> None:
        """One stays."""
        self.examples += 1
        self._pay(candidate)

    def _pay(self, candidate: Candidate) -> None:
        self.prompt_tokens += candidate.prompt_tokens
        self.tokens += candidate.tokens
        self.cost += candidate.cost
