"""Data sets of reasoning-gym (the extra `reasoning`), whose own scorers verify. Imported only where one is used."""

from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from trainer.rewards.problem import OneByOne, Problem, ProblemError

_RIGHT = 0.99  # it gives wrong answers a few hundredths, which would be noise in a group's advantages


class GymLevel(BaseModel):
    """A data set, and how hard it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.\-]{1,48}$", description="Of the level")
    dataset: str = Field(min_length=1, max_length=64, description="Of reasoning-gym, as chain_sum")
    options: dict[str, JsonValue] = Field(default_factory=dict, description="Of the data set, as max_digits")


class ReasoningGym(BaseModel, OneByOne):
    """Procedural problems of reasoning-gym; an answer is right when the data set's scorer gives it (nearly) all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["reasoning-gym"] = "reasoning-gym"
    levels: tuple[GymLevel, ...] = Field(min_length=1, description="Easy to hard")

    @field_validator("levels")
    @classmethod
    def _distinct(cls, levels: tuple[GymLevel, ...]) -> tuple[GymLevel, ...]:
        if len({level.name for level in levels}) < len(levels):
            raise ValueError("two levels have one name")
        return levels

    @property
    def names(self) -> tuple[str, ...]:
        """See `Tasks`."""
        return tuple(level.name for level in self.levels)

    def problem(self, level: str, seed: int) -> Problem:
        """See `Tasks`."""
        _, entry = self._made(level, seed % (1 << 31))
        return Problem(str(entry["question"]), str(entry["answer"]), level, f"reasoning-gym/{level}#{seed % (1 << 31)}")

    def score(self, problem: Problem, text: str) -> float:
        """See `Verifier`; the scorer's 0.99 and more are right, all else is wrong."""
        dataset, entry = self._made(problem.level, int(problem.source.rpartition("#")[2]))
        try:
            return float(float(dataset.score_answer(answer_in(text), entry)) >= _RIGHT)
        except Exception:  # scorers of many authors, given whatever a model says: what breaks one is not right
            return 0.0

    def identity(self) -> str:
        """See `Tasks`."""
        return str(getattr(_library(), "__version__", ""))

    def _made(self, level: str, seed: int) -> tuple[Any, Any]:
        found = next(each for each in self.levels if each.name == level)
        return _made(found.dataset, found.model_dump_json(), seed)


def answer_in(text: str) -> str:
    """What a text gives as its answer: within the last <answer> tags, or all of it."""
    _, tag, rest = text.rpartition("<answer>")
    return (rest.partition("</answer>")[0] if tag else text).strip()


@lru_cache(maxsize=4096)
def _made(dataset: str, level: str, seed: int) -> tuple[Any, Any]:
    """(data set, its one entry); a group's answers are scored one after another."""
    options = GymLevel.model_validate_json(level).options
    try:
        made = _library().create_dataset(dataset, size=1, seed=seed, **options)
        return made, made[0]
    except (ValueError, TypeError, AssertionError) as wrong:
        raise ProblemError(
            f"reasoning-gym does not make {dataset} with {options}: {wrong}", advice="see its GALLERY.md"
        ) from wrong


def _library() -> Any:
    try:
        import reasoning_gym
    except ImportError as wrong:
        raise ProblemError(
            f"reasoning-gym cannot be imported: {wrong}", advice="install it: pip install 'fulcrum[reasoning]'"
        ) from wrong
    return reasoning_gym
