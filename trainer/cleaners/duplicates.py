"""Exact duplicates by a 64-bit hash of the words; near duplicates by MinHash and locality-sensitive hashing.

MinHash (Broder 1997): for a random order of all shingles, two documents have the same least shingle with a probability
of their Jaccard similarity. 112 orders in 14 bands of 8 are FineWeb's choice (Penedo et al. 2024, section 3.4): a pair
of similarity s shares a band with probability 1 - (1 - s^8)^14, 0.77 at 0.75, 0.92 at 0.8, 0.9996 at 0.9. FineWeb
removes on a shared band; here the pair's similarity, estimated from all 112 (standard error below 0.05), decides.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from trainer.cleaners.words import Words, mixed

_BANDS, _ROWS = 14, 8
_ORDERS = _BANDS * _ROWS
_SHINGLE = 5
_BLOCK = 1 << 12
_GROWTH = 1 << 12


class ExactDuplicates:
    """Remembers each document's words as 64 bits: some 70 bytes of memory a document."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def seen(self, words: Words) -> bool:
        """Whether the same words came before; remembers them."""
        digest = hashlib.blake2b(" ".join(words.words).encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        if number in self._seen:
            return True
        self._seen.add(number)
        return False


class NearDuplicates:
    """Remembers the signature of each document that stays: some 2 kB of memory a document."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._bands: dict[int, int] = {}
        self._signatures = np.zeros((_GROWTH, _ORDERS), dtype=np.uint32)
        self._count = 0

    def seen(self, words: Words) -> bool:
        """Whether a document at least as similar as the threshold came before; remembers this one if not."""
        mine = signature(words)
        keys = _keys(mine)
        candidates = {self._bands[key] for key in keys if key in self._bands}
        if any(np.mean(self._signatures[row] == mine) >= self._threshold for row in sorted(candidates)):
            return True
        if self._count == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._signatures[self._count] = mine
        for key in keys:
            self._bands.setdefault(key, self._count)
        self._count += 1
        return False


def signature(words: Words) -> NDArray[np.uint32]:
    """The least shingle under each of 112 orders, [112]; a document shorter than a shingle is one shingle."""
    shingles = np.unique(words.grams(min(_SHINGLE, max(1, len(words.words)))))
    least = np.full(_ORDERS, np.uint32(0xFFFFFFFF))
    for start in range(0, len(shingles), _BLOCK):
        block = shingles[start : start + _BLOCK, None]
        ordered = ((block * _FACTORS + _TERMS) >> np.uint64(32)).astype(np.uint32)
        least = np.minimum(least, ordered.min(axis=0))
    return least


def _keys(of: NDArray[np.uint32]) -> list[int]:
    """A number for each band, different for equal values in different bands."""
    total = np.arange(1, _BANDS + 1, dtype=np.uint64)
    for column in of.reshape(_BANDS, _ROWS).T:
        total = mixed(total + column.astype(np.uint64))
    return [int(key) for key in total]


def _orders() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Multiply-shift hashing (Dietzfelbinger et al. 1997): odd factors, any terms."""
    generator = np.random.Generator(np.random.Philox(key=112))
    drawn = generator.integers(0, 1 << 64, size=(2, _ORDERS), dtype=np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


_FACTORS, _TERMS = _orders()
