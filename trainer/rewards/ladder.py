"""One curriculum over tasks of several kinds: the levels of the first, then those of the second, and so on."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.rewards.arithmetic import Arithmetic
from trainer.rewards.code import Code
from trainer.rewards.competition import Competition
from trainer.rewards.gym import ReasoningGym
from trainer.rewards.problem import Problem, Tasks
from trainer.rewards.programs import Programs

Fileless = Annotated[Arithmetic | ReasoningGym | Programs, Field(discriminator="kind")]
"""Tasks that read no files."""
Part = Annotated[Arithmetic | ReasoningGym | Competition | Programs | Code, Field(discriminator="kind")]


class _Ladder(BaseModel):
    """What ladders have in common; `parts` are tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ladder"] = "ladder"

    @model_validator(mode="after")
    def _levels_are_distinct(self) -> Self:
        names = Counter(name for part in self._parts for name in part.names)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"two parts have a level {twice[0]}: name levels, or the files they come from, otherwise")
        return self

    @property
    def _parts(self) -> tuple[Tasks, ...]:
        parts: tuple[Tasks, ...] = self.parts  # type: ignore[attr-defined]  # of which kinds, a subclass says
        return parts

    @property
    def names(self) -> tuple[str, ...]:
        """See `Tasks`."""
        return tuple(name for part in self._parts for name in part.names)

    def problem(self, level: str, seed: int) -> Problem:
        """See `Tasks`."""
        return self._of(level).problem(level, seed)

    def score(self, problem: Problem, text: str) -> float:
        """See `Verifier`."""
        return self._of(problem.level).score(problem, text)

    def scores(self, asked: Sequence[tuple[Problem, str]]) -> list[float]:
        """See `Verifier`; the parts verify side by side."""
        shares = [[at for at, (problem, _) in enumerate(asked) if problem.level in part.names] for part in self._parts]
        found = [0.0] * len(asked)
        with ThreadPoolExecutor(len(shares)) as pool:
            said = pool.map(lambda part, share: part.scores([asked[at] for at in share]), self._parts, shares)
            for share, values in zip(shares, said, strict=True):
                for at, value in zip(share, values, strict=True):
                    found[at] = value
        return found

    def identity(self) -> str:
        """See `Tasks`: those of the parts."""
        known = [part.identity() for part in self._parts]
        return "/".join(known) if any(known) else ""

    def _of(self, level: str) -> Tasks:
        return next(part for part in self._parts if level in part.names)


class Ladder(_Ladder):
    """Tasks one after another, easy to hard."""

    parts: tuple[Part, ...] = Field(min_length=1, max_length=64, description="Tasks of other kinds, easy to hard")


class FilelessLadder(_Ladder):
    """The same of tasks that read no files."""

    parts: tuple[Fileless, ...] = Field(min_length=1, max_length=64, description="Tasks of other kinds, easy to hard")
