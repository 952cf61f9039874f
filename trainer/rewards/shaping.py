"""What an answer is worth: a sum of declared rewards."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# None of them backtracks over more than one mark: an answer may be made to be slow.
_FORMS = {
    "boxed": re.compile(r"(?:(?!\\boxed\{).)*\\boxed\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[\s.$]*", re.DOTALL),
    "tags": re.compile(
        r"<think>(?:(?!</?think>|</?answer>).)*</think>\s*<answer>(?:(?!</?answer>).)*</answer>", re.DOTALL
    ),
    "number": re.compile(r"-?\d+(?:\.\d+|/\d+)?"),
}


@dataclass(frozen=True)
class Answered:
    """An answer, as rewards see it."""

    text: str
    tokens: tuple[int, ...]
    correct: float
    """Its verifier's score in [0, 1]."""
    most: int
    """Tokens it could have had."""


class _Weighted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, ge=-100, le=100)


class Correct(_Weighted):
    """The verifier's score."""

    kind: Literal["correct"] = "correct"

    def value(self, answer: Answered) -> float:
        """In [0, 1]."""
        return answer.correct


class Format(_Weighted):
    """Whether the whole answer has a form."""

    kind: Literal["format"] = "format"
    weight: float = Field(default=0.1, ge=-100, le=100)
    form: Literal["boxed", "tags", "number"] = Field(
        description="boxed: ends in \\boxed{...}; tags: <think>...</think><answer>...</answer>; number: nothing else"
    )

    def value(self, answer: Answered) -> float:
        """0 or 1."""
        return float(_FORMS[self.form].fullmatch(answer.text.strip()) is not None)


class Length(_Weighted):
    """From 0 to -1 over the last tokens before the limit: DAPO's soft punishment (arXiv 2503.14476, eq. 13)."""

    kind: Literal["length"] = "length"
    margin: float = Field(default=0.25, gt=0, le=1, description="Share of the limit over which it falls")

    def value(self, answer: Answered) -> float:
        """In [-1, 0]."""
        margin = self.margin * answer.most
        return min(0.0, max(-1.0, (answer.most - margin - len(answer.tokens)) / margin))


class Repetition(_Weighted):
    """The share of an answer's n-grams that it said before (arXiv 2502.03373, section 5.3), as a penalty."""

    kind: Literal["repetition"] = "repetition"
    weight: float = Field(default=0.5, ge=-100, le=100)
    n: int = Field(default=4, ge=1, le=64)

    def value(self, answer: Answered) -> float:
        """In (-1, 0]."""
        grams = [answer.tokens[i : i + self.n] for i in range(len(answer.tokens) - self.n + 1)]
        return len(set(grams)) / len(grams) - 1 if grams else 0.0


Reward = Annotated[Correct | Format | Length | Repetition, Field(discriminator="kind")]
"""A reward as it is written in JSON, told apart by `kind`."""


def total(rewards: Iterable[Reward], answer: Answered) -> float:
    """The weighted sum."""
    return sum(reward.weight * reward.value(answer) for reward in rewards)
