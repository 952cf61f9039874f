"""Explaining numbers: which expression in a piece's dimensions gives what was seen at two settings of them.

An expression is a sum of one or two like terms and a small constant; a term is a small factor times a product of at
most three dimensions, perhaps divided by one. The simplest that fits both settings is taken, and only if it is alone:
the settings are chosen so that expressions which differ come out differently.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property

from pydantic import BaseModel

from search.errors import NoTemplate

Dimensions = Mapping[str, int]
_Values = tuple[Fraction, ...]

_FACTORS = tuple(Fraction(*pair) for pair in ((1, 1), (-1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (-1, 2)))
_CONSTANTS = (0, 1, -1, 2, -2)
_MARGIN = 1  # by as much must any other expression be less simple


class Term(BaseModel):
    """`factor` (numerator, denominator) times the product of `times` divided by `by`."""

    factor: tuple[int, int] = (1, 1)
    times: tuple[str, ...]
    by: tuple[str, ...] = ()

    @property
    def cost(self) -> int:
        """How far from plain it is."""
        return len(self.times) + len(self.by) + (self.factor != (1, 1))

    def at(self, dimensions: Dimensions) -> Fraction:
        """Its value."""
        value = Fraction(*self.factor)
        for name in self.times:
            value *= dimensions[name]
        for name in self.by:
            value /= dimensions[name]
        return value


class Expression(BaseModel):
    """The sum of the terms and of the constant."""

    terms: tuple[Term, ...]
    plus: int = 0

    @property
    def cost(self) -> int:
        """How far from plain it is."""
        return sum(term.cost for term in self.terms) + (self.plus != 0)

    def at(self, dimensions: Dimensions) -> int:
        """Its value.

        Raises:
            NoTemplate: it is no whole number there.
        """
        value = sum((term.at(dimensions) for term in self.terms), Fraction(self.plus))
        if value.denominator != 1:
            raise NoTemplate(f"{self} is no whole number at {dict(dimensions)}")
        return int(value)

    def __str__(self) -> str:
        terms = ["*".join((f"{Fraction(*t.factor)}", *t.times)) + "".join(f"/{b}" for b in t.by) for t in self.terms]
        return " + ".join(terms) + f" + {self.plus}"


class Explainer:
    """Explains numbers seen at `settings`: one mapping of dimensions for each time of looking."""

    def __init__(self, settings: Sequence[Dimensions]) -> None:
        # What is 1 at every setting would make any expression into many that cannot be told apart, and stays 1 anyway.
        names = [name for name in settings[0] if any(setting[name] != 1 for setting in settings)]
        self._settings = [{name: setting[name] for name in names} for setting in settings]
        self._known: dict[tuple[int, ...], Expression] = {}

    def __call__(self, seen: tuple[int, ...]) -> Expression:
        """The simplest expression that gives `seen`, a value for each setting.

        Raises:
            NoTemplate: none, or more than one.
        """
        if seen not in self._known:
            self._known[seen] = self._explain(seen)
        return self._known[seen]

    def _explain(self, seen: tuple[int, ...]) -> Expression:
        values = tuple(map(Fraction, seen))
        fitting: list[Expression] = [*self._single.get(values, ()), *self._sums(values)]
        least = min((one.cost for one in fitting), default=0)
        simplest = [one for one in fitting if one.cost <= least + _MARGIN]
        if len(simplest) != 1:
            what = " and ".join(map(str, simplest)) or "no expression"
            raise NoTemplate(f"{what} explains {seen} at {self._settings}")
        return simplest[0]

    @cached_property
    def _terms(self) -> list[tuple[_Values, Term]]:
        found = []
        for times, by in _products(sorted(self._settings[0])):
            for factor in _FACTORS:
                term = Term(factor=(factor.numerator, factor.denominator), times=times, by=by)
                found.append((tuple(term.at(setting) for setting in self._settings), term))
        return found

    @cached_property
    def _single(self) -> dict[_Values, list[Expression]]:
        table: dict[_Values, list[Expression]] = defaultdict(list)
        for values, term in self._terms:
            for plus in _CONSTANTS:
                table[tuple(v + plus for v in values)].append(Expression(terms=(term,), plus=plus))
        return dict(table)

    def _sums(self, values: _Values) -> Iterator[Expression]:
        for first, term in self._terms:
            for rest in self._single.get(tuple(v - f for v, f in zip(values, first, strict=True)), ()):
                (other,) = rest.terms
                # Each sum once, and of like terms only: others are never meant, and there are enough of them to fit.
                if term.times < other.times and (len(term.times), term.by) == (len(other.times), other.by):
                    yield Expression(terms=(term, *rest.terms), plus=rest.plus)


def _products(names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    for degree in (1, 2, 3):
        for times in itertools.combinations_with_replacement(names, degree):
            yield times, ()
            yield from ((times, (by,)) for by in names if by not in times)
