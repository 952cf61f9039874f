"""Heuristics for prose. Thresholds and their sources:

* Gopher: Rae et al. 2021, "Scaling Language Models", table A1 (repetition) and section A.1.1 (quality).
* C4: Raffel et al. 2020, section 2.2: placeholder text, and curly brackets, which prose does not have.
* FineWeb: Penedo et al. 2024, section 3.6: lines that end without punctuation, repeated lines, short lines.

Each rule judges a whole document; C4's rules that drop single lines are not taken over.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from trainer.cleaners.words import Words

_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
_ENDS = (".", "!", "?", '"', "'", "\u201d", "\u2019", ":", ";", ")")
_TOP_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def fault(words: Words) -> str | None:
    """The first rule that the document breaks, or None. English stop words are asked for."""
    for found in (_shape(words), _symbols(words.text), _lines(words.text), _repetition(words)):
        name = next(found, None)
        if name is not None:
            return name
    return None


def _shape(words: Words) -> Iterator[str]:
    tokens = words.text.split()
    if not 50 <= len(tokens) <= 100_000:
        yield "fewer than 50 or more than 100,000 words"
    elif not 3 <= sum(map(len, tokens)) / len(tokens) <= 10:
        yield "mean word length outside 3 to 10"
    elif sum(any(map(str.isalpha, token)) for token in tokens) < 0.8 * len(tokens):
        yield "fewer than 80 % words with a letter"
    elif len(_STOP_WORDS & set(words.words)) < 2:
        yield "fewer than 2 stop words"


def _symbols(text: str) -> Iterator[str]:
    tokens = max(1, len(text.split()))
    if text.count("#") > 0.1 * tokens or text.count("...") + text.count("\u2026") > 0.1 * tokens:
        yield "more than 1 hash or ellipsis in 10 words"
    if "lorem ipsum" in text.lower():
        yield "placeholder text"
    if text.count("{") + text.count("}") > 0.01 * tokens:  # C4 refuses every bracket; one citation is no program
        yield "curly brackets"


def _lines(text: str) -> Iterator[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.startswith(("\u2022", "-", "*")) for line in lines) > 0.9 * len(lines):
        yield "more than 90 % bullet lines"
    if sum(line.endswith(("...", "\u2026")) for line in lines) > 0.3 * len(lines):
        yield "more than 30 % lines end with an ellipsis"
    if sum(line.endswith(_ENDS) for line in lines) < 0.12 * len(lines):
        yield "fewer than 12 % lines end with punctuation"
    if sum(len(line) < 30 for line in lines) > 0.67 * len(lines):
        yield "more than 67 % lines shorter than 30 characters"
    repeated = {line: count for line, count in Counter(lines).items() if count > 1}
    if sum(repeated.values()) - len(repeated) > 0.3 * len(lines):
        yield "more than 30 % lines repeated"
    if sum(len(line) * (count - 1) for line, count in repeated.items()) > 0.1 * sum(map(len, lines)):
        yield "more than 10 % characters in repeated lines"


def _repetition(words: Words) -> Iterator[str]:
    total = int(words.lengths.sum())
    starts = np.concatenate([[0], np.cumsum(words.lengths)])
    for size, most in _TOP_GRAMS.items():
        grams = words.grams(size)
        if len(grams):
            _, first, counts = np.unique(grams, return_index=True, return_counts=True)
            top = int(np.argmax(counts))
            length = int(starts[first[top] + size] - starts[first[top]])
            if counts[top] > 1 and length * int(counts[top]) > most * total:
                yield f"one {size}-gram is more than {most:.0%}"
    for size, most in _REPEATED_GRAMS.items():
        if _covered(words, size) > most * total:
            yield f"repeated {size}-grams are more than {most:.0%}"


def _covered(words: Words, size: int) -> int:
    """Characters of words that lie in an n-gram seen before in the document."""
    grams = words.grams(size)
    if not len(grams):
        return 0
    _, first, inverse = np.unique(grams, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] < np.arange(len(grams)))
    edges = np.zeros(len(words.words) + 1, dtype=np.int64)
    np.add.at(edges, again, 1)
    np.add.at(edges, again + size, -1)
    return int(words.lengths[np.cumsum(edges[:-1]) > 0].sum())
