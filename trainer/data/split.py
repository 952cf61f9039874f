"""Which documents are held out: chosen by their hash, so that the same text is always on the same side."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.errors import CorpusError

HELD_OUT_SHARE = 0.05
_SPREAD = 20  # a source of so many documents has at least one held out: 1 in 20 is the share


def place(text: str, seed: int) -> int:
    """A document's place in [0, 2^64): uniform, and always the same."""
    digest = hashlib.sha256(seed.to_bytes(8, "little", signed=True) + text.encode())
    return int.from_bytes(digest.digest()[:8], "little")


@dataclass(frozen=True)
class HoldOut:
    """Places up to `threshold` are held out, and a few single ones."""

    threshold: int
    single: frozenset[int] = frozenset()

    def __contains__(self, at: int) -> bool:
        return at <= self.threshold or at in self.single


@dataclass
class Places:
    """What must be known of all documents to choose: gathered in a stream, in constant memory."""

    documents: int = 0
    characters: int = 0
    _first: int = 1 << 64
    _last: list[int] = field(default_factory=list)  # the two largest
    _least_of_sources: list[int] = field(default_factory=list)

    def source(self, places: Iterable[tuple[int, int]]) -> int:
        """Note one source's documents as (place, characters); returns how many there were."""
        least, most, count = 1 << 64, -1, 0
        for at, characters in places:
            count += 1
            self.characters += characters
            least, most = min(least, at), max(most, at)
            if at not in self._last:
                self._last = sorted([*self._last, at])[-2:]
        self.documents += count
        self._first = min(self._first, least)
        if count >= _SPREAD and least < most:
            self._least_of_sources.append(least)
        return count

    def chosen(self) -> HoldOut:
        """About 5 %: at least one document is held out, and at least one is not.

        Raises:
            CorpusError: there is one document only.
        """
        if len(self._last) < 2:
            raise CorpusError(
                f"the corpus has {self.characters} characters in one document, too few to hold any out",
                advice="give more text; a plain text file is cut into documents of 32 kB, JSONL and Parquet hold "
                "one a row",
            )
        threshold = min(max(int(HELD_OUT_SHARE * 2**64), self._first), self._last[0])
        return HoldOut(threshold, frozenset(self._least_of_sources))
