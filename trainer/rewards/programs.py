"""Small functions to be written, of our own: levels from a constant to a loop, as `Write f(x) that returns x + 7.`

What a problem asks for in words is computed here to make its tests, so every level has as many problems as its numbers.
"""

import random
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator

from trainer.rewards.code import Tested
from trainer.rewards.problem import Problem, chosen_levels

_TESTS = 6  # calls of a function
_Made = tuple[str, str, Callable[..., Any], list[tuple[Any, ...]]]
"""(parameters, what is returned, the function, what it is called with)."""


def _constant(dice: random.Random) -> _Made:
    value = dice.randrange(-999, 1000)
    return "", str(value), lambda: value, [()]


def _sum(dice: random.Random) -> _Made:
    sign, by = dice.choice("+-"), dice.randrange(1, 200)
    moved = by if sign == "+" else -by
    return "x", f"x {sign} {by}", lambda x: x + moved, _numbers(dice, 1)


def _line(dice: random.Random) -> _Made:
    times, plus = dice.randrange(2, 20), dice.randrange(1, 50)
    return "x", f"{times} times x, plus {plus}", lambda x: times * x + plus, _numbers(dice, 1)


def _two(dice: random.Random) -> _Made:
    a, b = dice.randrange(2, 20), dice.randrange(2, 20)
    return "x, y", f"{a} times x minus {b} times y", lambda x, y: a * x - b * y, _numbers(dice, 2)


def _branch(dice: random.Random) -> _Made:
    least, plus, times = dice.randrange(-20, 20), dice.randrange(1, 50), dice.randrange(2, 10)
    words = f"x plus {plus} if x is greater than {least}, and {times} times x if not"
    calls = [(least,), (least + 1,), *_numbers(dice, 1)]
    return "x", words, lambda x: x + plus if x > least else times * x, calls


def _text(dice: random.Random) -> _Made:
    times, end = dice.randrange(2, 9), dice.choice("abcdefghijklmnopqrstuvwxyz")
    words = f"the text s backwards, {times} times in a row, and then the letter {end}"
    calls = [("".join(dice.choices("abcdef ", k=dice.randrange(8))),) for _ in range(_TESTS)]
    return "s", words, lambda s: s[::-1] * times + end, [("ab",), *calls]


def _list(dice: random.Random) -> _Made:
    by, plus = dice.randrange(2, 10), dice.randrange(1, 50)
    words = f"the sum of those numbers of the list a that {by} divides, plus {plus}"
    calls = [([dice.randrange(-40, 40) for _ in range(dice.randrange(9))],) for _ in range(_TESTS)]
    return "a", words, lambda a: sum(item for item in a if item % by == 0) + plus, [([by, by + 1],), *calls]


def _loop(dice: random.Random) -> _Made:
    first, times, by = dice.randrange(1, 9), dice.randrange(2, 6), dice.randrange(11, 99)
    words = f"what is left of {first} after n rounds, each of which takes {times} times it plus 1, modulo {by}"

    def looped(n: int) -> int:
        value = first
        for _ in range(n):
            value = (times * value + 1) % by
        return value

    return "n", words, looped, [(0,), *((dice.randrange(1, 40),) for _ in range(_TESTS))]


def _numbers(dice: random.Random, count: int) -> list[tuple[Any, ...]]:
    return [tuple(dice.randrange(-99, 100) for _ in range(count)) for _ in range(_TESTS)]


_LEVELS: dict[str, Callable[[random.Random], _Made]] = {
    "write-constant": _constant,
    "write-sum": _sum,
    "write-line": _line,
    "write-two": _two,
    "write-branch": _branch,
    "write-text": _text,
    "write-list": _list,
    "write-loop": _loop,
}
ALL = tuple(_LEVELS)


class Programs(Tested):
    """Functions to be written; an answer is right when the function returns what it must for every call."""

    kind: Literal["programs"] = "programs"
    levels: tuple[str, ...] = Field(default=ALL, min_length=1, description=f"Easy to hard, of {', '.join(ALL)}")

    @field_validator("levels")
    @classmethod
    def _known(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        return chosen_levels(levels, ALL)

    @property
    def names(self) -> tuple[str, ...]:
        """See `Tasks`."""
        return self.levels

    def problem(self, level: str, seed: int) -> Problem:
        """See `Tasks`."""
        parameters, words, made, calls = _LEVELS[level](random.Random(f"{level}/{seed}"))
        tests = [f"assert f(*{call!r}) == {made(*call)!r}" for call in calls]
        prompt = f"Write f({parameters}) that returns {words}.\n"
        return Problem(prompt, "\n".join(tests), level, f"programs/{level}#{seed}")

    def identity(self) -> str:
        """See `Tasks`."""
        return ""
