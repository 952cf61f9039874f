"""What is asked, where problems come from, and who says whether an answer is right."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.errors import TrainerError

_HELD_OUT = 5  # one problem of so many
_DRAWS = 1000


class ProblemError(TrainerError):
    """Problems that cannot be had: a missing library, an unknown data set, a malformed file."""

    slug = "bad-problems"


@dataclass(frozen=True)
class Problem:
    """A question with one right answer. `source` says where it is from, and suffices to find it there again."""

    prompt: str
    answer: str
    level: str
    source: str


class Verifier(Protocol):
    """Says how right an answer is."""

    def score(self, problem: Problem, text: str) -> float:
        """In [0, 1]; 1 is right. Whatever `text` is, it raises nothing but that a host cannot verify at all."""
        ...

    def scores(self, asked: Sequence[tuple[Problem, str]]) -> list[float]:
        """The same of several answers, side by side where that is faster."""
        ...


class OneByOne:
    """Of verifiers that gain nothing by several answers at once."""

    def score(self, problem: Problem, text: str) -> float:
        """See `Verifier`."""
        raise NotImplementedError

    def scores(self, asked: Sequence[tuple[Problem, str]]) -> list[float]:
        """See `Verifier`."""
        return [self.score(problem, text) for problem, text in asked]


class Tasks(Verifier, Protocol):
    """Problems by level, and their verifier."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the levels, easy to hard."""
        ...

    def problem(self, level: str, seed: int) -> Problem:
        """A problem of a level: a pure function of the two.

        Raises:
            ProblemError: it cannot be had.
        """
        ...

    def identity(self) -> str:
        """What determines the problems beyond the fields, such as the content of files."""
        ...


def chosen_levels(levels: tuple[str, ...], there: tuple[str, ...]) -> tuple[str, ...]:
    """`levels`, each one of those that are `there`.

    Raises:
        ValueError: one is not, or is named twice.
    """
    if unknown := [level for level in levels if level not in there]:
        raise ValueError(f"there is no level {unknown[0]}; there are {', '.join(there)}")
    if len(set(levels)) < len(levels):
        raise ValueError("a level is named twice")
    return levels


def number_of(*parts: object) -> int:
    """A number of 62 bits that depends on all parts, and is the same in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def is_held_out(problem: Problem) -> bool:
    """Whether a problem is for judging; by its words alone, so that no seed brings it into training."""
    return number_of("held-out", problem.prompt) % _HELD_OUT == 0


def drawn(
    tasks: Tasks, level: str, seed: int, *, held_out: bool, fits: Callable[[Problem], bool] = lambda _: True
) -> Problem:
    """A problem of a level for training, or one for judging; one that does not fit is passed over.

    Raises:
        ProblemError: there seems to be none.
    """
    for attempt in range(_DRAWS):
        problem = tasks.problem(level, number_of(seed, attempt))
        if is_held_out(problem) == held_out and fits(problem):
            return problem
    raise ProblemError(
        f"{_DRAWS} problems of the level {level} were drawn, and none could be used",
        advice="give the level more problems, or the prompts more room: raise `sequence`",
    )
