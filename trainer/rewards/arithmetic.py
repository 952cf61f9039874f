"""Arithmetic of our own: levels from odd and even to expressions of several steps, as `12+7=`."""

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.rewards.numbers import last_number
from trainer.rewards.problem import OneByOne, Problem, chosen_levels

_Draw = Callable[[random.Random], tuple[str, Fraction]]


def _add(digits: int) -> _Draw:
    def draw(dice: random.Random) -> tuple[str, Fraction]:
        a, b = _number(dice, digits), _number(dice, digits)
        return f"{a}+{b}", Fraction(a + b)

    return draw


def _add_or_subtract(digits: int) -> _Draw:
    def draw(dice: random.Random) -> tuple[str, Fraction]:
        a, b = _number(dice, digits), _number(dice, digits)
        return (f"{a}+{b}", Fraction(a + b)) if dice.random() < 0.5 else (f"{a}-{b}", Fraction(a - b))

    return draw


def _multiply(left: int, right: int) -> _Draw:
    def draw(dice: random.Random) -> tuple[str, Fraction]:
        a, b = _number(dice, left), _number(dice, right)
        return f"{a}*{b}", Fraction(a * b)

    return draw


def _rest(digits: int, of: int) -> _Draw:
    def draw(dice: random.Random) -> tuple[str, Fraction]:
        a = _number(dice, digits)
        return f"{a}%{of}", Fraction(a % of)

    return draw


def _larger(digits: int) -> _Draw:
    def draw(dice: random.Random) -> tuple[str, Fraction]:
        a, b = _number(dice, digits), _number(dice, digits)
        return f"max({a},{b})", Fraction(max(a, b))

    return draw


def _next(digits: int) -> _Draw:
    def draw(dice: random.Random) -> tuple[str, Fraction]:
        a = _number(dice, digits)
        return f"{a}+1", Fraction(a + 1)

    return draw


def _three_terms(dice: random.Random) -> tuple[str, Fraction]:
    a, b, c = (_number(dice, 2) for _ in range(3))
    return f"{a}+{b}-{c}", Fraction(a + b - c)


def _nested(steps: int, divides: bool) -> _Draw:
    """An expression tree of so many operations, with the brackets it needs."""

    def draw(dice: random.Random) -> tuple[str, Fraction]:
        return _tree(dice, steps, divides)[:2]

    return draw


def _tree(dice: random.Random, steps: int, divides: bool) -> tuple[str, Fraction, int]:
    """(text, value, how strongly it binds)."""
    if steps == 0:
        value = dice.randrange(1, 13)
        return str(value), Fraction(value), 3
    left = dice.randrange(steps)
    a, x, binds_a = _tree(dice, left, divides)
    b, y, binds_b = _tree(dice, steps - 1 - left, divides)
    sign = dice.choice("+-*/" if divides and y != 0 else "+-*")
    strength = 2 if sign in "*/" else 1
    # Of equals to the right the order matters after - and /.
    text_a = a if binds_a >= strength else f"({a})"
    text_b = b if binds_b > strength or (binds_b == strength and sign in "+*") else f"({b})"
    made = {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else x}[sign]
    return f"{text_a}{sign}{text_b}", made, strength


def _number(dice: random.Random, digits: int) -> int:
    return dice.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


_LEVELS: dict[str, _Draw] = {
    "parity-3": _rest(3, 2),
    "last-3": _rest(3, 10),
    "larger-2": _larger(2),
    "next-3": _next(3),
    "add-1": _add(1),
    "sum-1": _add_or_subtract(1),
    "sum-2": _add_or_subtract(2),
    "times-1": _multiply(1, 1),
    "terms-3": _three_terms,
    "sum-3": _add_or_subtract(3),
    "times-2": _multiply(2, 1),
    "steps-2": _nested(2, divides=False),
    "steps-4": _nested(4, divides=False),
    "fractions-3": _nested(3, divides=True),
}
ALL = tuple(_LEVELS)


class Arithmetic(BaseModel, OneByOne):
    """Expressions to be worked out; an answer is right when its last number is exactly the value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["arithmetic"] = "arithmetic"
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
        text, value = _LEVELS[level](random.Random(f"{level}/{seed}"))
        return Problem(f"{text}=", str(value), level, f"arithmetic/{level}#{seed}")

    def score(self, problem: Problem, text: str) -> float:
        """See `Verifier`."""
        return float(last_number(text) == Fraction(problem.answer))

    def identity(self) -> str:
        """See `Tasks`."""
        return ""
