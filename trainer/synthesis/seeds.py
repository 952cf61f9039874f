"""What examples grow from: documents, code, topics and personas, problems with known answers. Their order stays."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.rewards import AnyTasks, Problem, drawn, number_of
from trainer.sources import Source

_SHORTEST = 200  # characters of a document that says something


@dataclass(frozen=True)
class Seed:
    """Values for templates; `id` suffices to find it again. A problem has its right answer, which no template shows."""

    id: str
    values: dict[str, str]
    problem: Problem | None = None


class _Seeds(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Documents(_Seeds):
    """Documents of sources, in their order: the values `document`. What is longer is cut at the end of a line."""

    kind: Literal["documents"] = "documents"
    sources: tuple[Source, ...] = Field(min_length=1)
    longest: int = Field(default=4000, ge=100, description="Characters")

    @property
    def names(self) -> dict[str, bool]:
        """Values, and whether somebody else wrote them."""
        return {"document": True}

    def identity(self) -> str:
        """What determines the seeds beyond the fields."""
        return ",".join(source.fingerprint() for source in self.sources)

    def seeds(self, seed: int) -> Iterator[Seed]:  # noqa: ARG002  # files have an order
        """All of them."""
        for source in self.sources:
            for number, read in enumerate(source.documents()):
                text = read.encode("utf-8", "replace").decode()  # JSON can say half a surrogate pair; files cannot
                cut = text[: self.longest]
                if len(text) > self.longest:
                    cut = cut.rpartition("\n")[0] or cut
                if len(cut) >= min(_SHORTEST, self.longest):
                    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
                    yield Seed(f"{source.title}#{number}:{digest}", {"document": cut})


class Topics(_Seeds):
    """Every topic with every persona, shuffled: the values `topic` and `persona`. Written by the recipe's author."""

    kind: Literal["topics"] = "topics"
    topics: tuple[str, ...] = Field(min_length=1)
    personas: tuple[str, ...] = Field(default=("somebody",), min_length=1)

    @property
    def names(self) -> dict[str, bool]:
        """See `Documents`."""
        return {"topic": False, "persona": False}

    def identity(self) -> str:
        """See `Documents`."""
        return ""

    def seeds(self, seed: int) -> Iterator[Seed]:
        """All of them."""
        pairs = [(topic, persona) for topic in self.topics for persona in self.personas]
        random.Random(seed).shuffle(pairs)
        for topic, persona in pairs:
            yield Seed(f"{topic}/{persona}", {"topic": topic, "persona": persona})


class Problems(_Seeds):
    """Problems of `trainer.rewards`, level by level in turn: the value `problem`. Their verifier knows the answers.

    Those that models are judged by (`trainer.rewards.is_held_out`) are not among them.
    """

    kind: Literal["problems"] = "problems"
    tasks: AnyTasks
    count: int = Field(ge=1, description="Problems altogether")

    @property
    def names(self) -> dict[str, bool]:
        """See `Documents`."""
        return {"problem": False}

    def identity(self) -> str:
        """See `Documents`."""
        return self.tasks.identity()

    def seeds(self, seed: int) -> Iterator[Seed]:
        """`count` of them. Raises ProblemError where there seem to be none."""
        levels = self.tasks.names
        for number in range(self.count):
            drawn_by = number_of("synthesis", seed, number)
            found = drawn(self.tasks, levels[number % len(levels)], drawn_by, held_out=False)
            yield Seed(f"{number}:{found.source}", {"problem": found.prompt}, found)


AnySeeds = Annotated[Documents | Topics | Problems, Field(discriminator="kind")]


def from_(seeds: Documents | Topics | Problems, seed: int, start: int, stop: int | None) -> Iterator[tuple[int, Seed]]:
    """(number, seed) of a part of them."""
    return islice(enumerate(seeds.seeds(seed)), start, stop)


def many(seeds: Documents | Topics | Problems, seed: int, stop: int | None) -> int:
    """How many `from_` gives, from the first."""
    if isinstance(seeds, Problems):  # which are not to be made for being counted
        return seeds.count if stop is None else min(seeds.count, stop)
    return sum(1 for _ in islice(seeds.seeds(seed), stop))
