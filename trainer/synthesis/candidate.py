"""An example in the making."""

from dataclasses import dataclass, field, replace
from typing import Any

from trainer.synthesis.seeds import Seed
from trainer.tutors import Answer


@dataclass
class Candidate:
    """What became of one sample of one seed: values, what was asked for them, and what they took."""

    number: int
    """Of the seed."""
    seed: Seed
    sample: int = 0
    values: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    passed: list[dict[str, Any]] = field(default_factory=list)
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0

    def answered(self, step: str, text: str, prompt: list[dict[str, str]], sample: int) -> "Candidate":
        """The same with one value more; costs are added by `pay`."""
        values, prompts = {**self.values, step: text}, {**self.prompts, step: prompt}
        return replace(self, values=values, prompts=prompts, sample=sample, passed=[])

    def pay(self, answer: Answer, cost: float) -> None:
        """Count what an answer took."""
        self.prompt_tokens += answer.prompt_tokens
        self.tokens += answer.tokens
        self.cost += cost
