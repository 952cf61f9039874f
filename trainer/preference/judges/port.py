"""The port to judges: marks for one answer, and votes between two."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.chat import Message
from trainer.rewards import Problem

Marks = Mapping[str, float]
"""By criterion, each on its own scale."""


@dataclass(frozen=True)
class Criterion:
    """What is looked at, how, on which scale, and how much it counts."""

    name: str
    rubric: str
    lowest: float = 0
    highest: float = 1
    weight: float = 1


@dataclass(frozen=True)
class Case:
    """A chat to be answered, and where one is known its verifiable answer, and the problem that it poses."""

    messages: tuple[Message, ...]
    expected: str | None = None
    problem: Problem | None = None

    @property
    def key(self) -> str:
        """What determines it."""
        return json.dumps([[message.model_dump(mode="json") for message in self.messages], self.expected])

    @property
    def draw(self) -> float:
        """A hash of the chat in [0, 1), whatever is expected: those below a share are held out."""
        said = json.dumps([[message.role, message.content] for message in self.messages])
        return int.from_bytes(hashlib.sha256(b"held out" + said.encode()).digest()[:6], "big") / 2**48


Verifier = Callable[[Case, str], float | None]
"""How right an answer is, 0 ... 1; None where that cannot be verified."""


@dataclass(frozen=True)
class Vote:
    """1 for the first of two answers, -1 for the second, 0 for neither; `swapped`: the judge saw the second first."""

    preferred: int
    swapped: bool = False


@dataclass(frozen=True)
class Comparison:
    """The valid votes between two answers, and how many replies were none; `verified` overrules them."""

    votes: tuple[Vote, ...]
    invalid: int = 0
    verified: int = 0

    @property
    def preferred(self) -> int:
        """1: the first answer, -1: the second, 0: a tie, or nobody who could vote.

        Each order counts alike, however many of its replies were valid: else a judge with a favourite place would
        carry it into the result.
        """
        if self.verified:
            return self.verified
        orders = [[vote.preferred for vote in self.votes if vote.swapped is swapped] for swapped in (False, True)]
        balance = sum(sum(votes) / len(votes) for votes in orders if votes)
        return (balance > 0) - (balance < 0)


class Judge(Protocol):
    """Says how good answers are. `name` tells what it is: that of a rule judge begins with `rule`."""

    name: str
    criteria: tuple[Criterion, ...]

    def score(self, asked: Sequence[tuple[Case, str]]) -> list[Marks | None]:
        """Marks of each answer, alone; None where the judge gave no valid ones."""

    def compare(self, asked: Sequence[tuple[Case, str, str]]) -> list[Comparison]:
        """Votes between each pair of answers."""


def total(marks: Marks, criteria: Sequence[Criterion]) -> float:
    """The weighted mean of all marks, each brought from its scale to 0 ... 1."""
    shares = [c.weight * (marks[c.name] - c.lowest) / (c.highest - c.lowest) for c in criteria]
    return sum(shares) / sum(criterion.weight for criterion in criteria)
