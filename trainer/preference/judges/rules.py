"""Rule judges: what can be said of an answer without understanding it. They are no language models, and say so."""

import re
from collections.abc import Callable, Sequence
from functools import partial

from trainer.options import Rule
from trainer.preference.judges.port import Case, Comparison, Criterion, Marks, Verifier, Vote, total
from trainer.rewards.numbers import is_number, last_number

_NGRAM = 3  # words
_CURSES = frozenset({"bastard", "bitch", "bullshit", "cunt", "fuck", "fucked", "fucking", "shit", "slut", "whore"})

RUBRICS = {
    "correct": "The verifier of the problem says that the answer is right.",
    "exact": "The answer is the expected one, but for white space around it.",
    "number": "The last number of the answer, 1/2 as 0.5, is the expected number.",
    "format": "The whole answer matches a regular expression.",
    "length": "The answer has as many words as wished; each word more or less than that costs.",
    "repetition": "Share of different sequences of three words among all.",
    "profanity": "No word of a short list of curses.",
}


class RuleJudge:
    """Marks by rules, each from 0 to 1; of two answers it prefers the one with the higher total."""

    def __init__(self, rules: Sequence[Rule], verifier: Verifier | None = None) -> None:
        """`verifier` is what the rule `correct` asks: without one, `verifiable`."""
        self._rules = {rule.rule: _made(rule, verifier or verifiable) for rule in rules}
        self.name = f"rules: {', '.join(self._rules)}"
        self.criteria = tuple(Criterion(rule.rule, RUBRICS[rule.rule], weight=rule.weight) for rule in rules)

    def score(self, asked: Sequence[tuple[Case, str]]) -> list[Marks | None]:
        """See `Judge`; a rule always has a mark."""
        return [self._marks(case, text) for case, text in asked]

    def compare(self, asked: Sequence[tuple[Case, str, str]]) -> list[Comparison]:
        """See `Judge`; rules vote alike in both orders."""
        votes = [self._preferred(*one) for one in asked]
        return [Comparison((Vote(vote), Vote(vote, swapped=True))) for vote in votes]

    def _marks(self, case: Case, text: str) -> Marks:
        return {name: rule(case, text) for name, rule in self._rules.items()}

    def _preferred(self, case: Case, first: str, second: str) -> int:
        a, b = (total(self._marks(case, text), self.criteria) for text in (first, second))
        return (a > b) - (a < b)


def exact(case: Case, text: str) -> float:
    """Whether the answer is the expected one; 0 where none is known."""
    return float(case.expected is not None and text.strip() == case.expected.strip())


def number(case: Case, text: str) -> float:
    """Whether the last number of the answer is that of the expected one; 0 where none is known."""
    wanted = last_number(case.expected or "")
    return float(wanted is not None and wanted == last_number(text))


def verifiable(case: Case, text: str) -> float | None:
    """1 or 0 where the expected answer is a number, 1 where it is what was said; else words may say the same."""
    if case.expected is None:
        return None
    if is_number(case.expected):
        return number(case, text)
    return 1.0 if exact(case, text) else None


def _correct(verifier: Verifier, case: Case, text: str) -> float:
    return verifier(case, text) or 0.0


def _format(pattern: re.Pattern[str], _: Case, text: str) -> float:
    return float(pattern.fullmatch(text.strip()) is not None)


def _length(words: int, _: Case, text: str) -> float:
    return 1 / (1 + abs(len(text.split()) - words) / words)


def _repetition(_: Case, text: str) -> float:
    words = text.lower().split()
    grams = [tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _profanity(_: Case, text: str) -> float:
    return float(_CURSES.isdisjoint(re.findall(r"[a-z]+", text.lower())))


def _made(rule: Rule, verifier: Verifier) -> Callable[[Case, str], float]:
    match rule.rule:
        case "correct":
            return partial(_correct, verifier)
        case "format":
            return partial(_format, re.compile(rule.pattern or "", re.DOTALL))
        case "length":
            return partial(_length, rule.words or 1)
        case name:
            return {"exact": exact, "number": number, "repetition": _repetition, "profanity": _profanity}[name]
