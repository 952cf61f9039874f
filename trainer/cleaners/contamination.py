"""N-grams of evaluation texts (Brown et al. 2020, appendix C: 13 words, without case and punctuation).

An evaluation text shorter than that counts as one n-gram if it has at least 8 words, GPT-3's lower limit. GPT-3 cut a
document open around a hit; here the whole document goes.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trainer.cleaners.words import Words

_SHORTEST = 8


class Contamination:
    """Knows the evaluations' n-grams: 8 bytes each."""

    def __init__(self, evaluations: Iterable[str], size: int) -> None:
        found: dict[int, list[NDArray[np.uint64]]] = defaultdict(list)
        for text in evaluations:
            words = Words(text)
            length = min(size, len(words.words))
            if length >= min(_SHORTEST, size):
                found[length].append(words.grams(length))
        self._grams = {length: np.unique(np.concatenate(parts)) for length, parts in found.items()}

    def __contains__(self, words: Words) -> bool:
        for length, known in self._grams.items():
            grams = words.grams(length)
            places = np.searchsorted(known, grams)
            if bool((known[np.minimum(places, len(known) - 1)] == grams).any()):
                return True
        return False
