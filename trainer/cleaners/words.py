"""A document's words as numbers: what n-gram filters share."""

import re
import unicodedata
import zlib
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit changes about half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Words:
    """Words of a text without case, punctuation and white space."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """In order."""
        return _WORD.findall(unicodedata.normalize("NFKC", self.text).lower())

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """A 64-bit number for each word; words of equal CRC-32 share one."""
        crc = np.fromiter((zlib.crc32(word.encode()) for word in self.words), dtype=np.uint64, count=len(self.words))
        return mixed(crc + np.uint64(1))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Characters of each word."""
        return np.fromiter(map(len, self.words), dtype=np.int64, count=len(self.words))

    def grams(self, size: int) -> NDArray[np.uint64]:
        """A number for each `size` words in a row: none where there are fewer words."""
        count = len(self.words) - size + 1
        if count < 1:
            return np.zeros(0, dtype=np.uint64)
        total = np.zeros(count, dtype=np.uint64)
        for place in range(size):
            total = total * _FACTOR + self.hashes[place : place + count]
        return mixed(total)
