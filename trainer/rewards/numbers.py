"""Numbers in text, exactly."""

import re
from fractions import Fraction

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
# A minus after a number or a bracket subtracts.
_FOUND = re.compile(rf"(?P<minus>(?<![\w)\]}}.])[-\u2212]\s?)?(?P<value>{_NUMBER})(?:\s?/\s?(?P<below>[1-9]\d*))?")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_BOX = "\\boxed{"
_MOST_DIGITS = 400


def last_number(text: str) -> Fraction | None:
    """The number an answer gives: of its last \\boxed{...} where there is one, else the last number in it.

    Integers, decimals and fractions, with thousands' commas or without; None where there is none, or an absurd one.
    """
    box = text.rfind(_BOX)
    where = text if box < 0 else _inside(text[box + len(_BOX) :])
    every = list(_FOUND.finditer(_LATEX_FRACTION.sub(r"\1/\2", where)))
    if not every or len(every[-1][0]) > _MOST_DIGITS:
        return None
    found = every[-1]
    value = Fraction(found["value"].replace(",", "")) / int(found["below"] or 1)
    return -value if found["minus"] else value


def is_number(text: str) -> bool:
    """Whether it is one number and nothing else."""
    return _FOUND.fullmatch(_LATEX_FRACTION.sub(r"\1/\2", text.strip())) is not None


def _inside(text: str) -> str:
    """Up to the brace that closes."""
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[:index]
    return text
