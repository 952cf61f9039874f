"""Which documents are held out: chosen by their hash, so that the same text is always on the same side."""

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.errors import CorpusError

HELD_OUT_SHARE = 0.05
_NEAR = int(4 * HELD_OUT_SHARE * 2**64)  # places that a source may need to come to its own share


def place(text: str, seed: int) -> int:
    """A document's place in [0, 2^64): uniform, and always the same."""
    digest = hashlib.sha256(seed.to_bytes(8, "little", signed=True) + text.encode())
    return int.from_bytes(digest.digest()[:8], "little")


@dataclass(frozen=True)
class HoldOut:
    """Places up to `threshold` are held out, and a few single ones; never a document that is most of the corpus."""

    threshold: int
    single: frozenset[int] = frozenset()
    most: int | None = None

    def __contains__(self, at: int) -> bool:
        return at != self.most and (at <= self.threshold or at in self.single)


@dataclass
class Places:
    """What must be known of all documents to choose: gathered in a stream, in some two bytes of memory a document."""

    documents: int = 0
    characters: int = 0
    _first: list[int] = field(default_factory=list)  # the two smallest
    _largest: tuple[int, int] = (0, 0)  # characters and place
    _last: list[int] = field(default_factory=list)  # the two largest
    _near: list[tuple[int, "array[int]"]] = field(default_factory=list)  # (documents, places near the threshold)

    def source(self, places: Iterable[tuple[int, int]]) -> int:
        """Note one source's documents as (place, characters); returns how many there were."""
        count, near = 0, array("Q")
        for at, characters in places:
            count += 1
            self.characters += characters
            self._largest = max(self._largest, (characters, at))
            if at not in self._first:
                self._first = sorted([*self._first, at])[:2]
            if at not in self._last:
                self._last = sorted([*self._last, at])[-2:]
            if at <= _NEAR:
                near.append(at)
        self.documents += count
        self._near.append((count, near))
        return count

    def chosen(self) -> HoldOut:
        """About 5 % of everything, at least one document, not all; and of each source 1 document in 20, where chance
        gave fewer: it is to be judged on text of its own.

        Raises:
            CorpusError: there is one document only.
        """
        if len(self._last) < 2:
            raise CorpusError(
                f"the corpus has {self.characters} characters in one document, too few to hold any out",
                advice="give more text; a plain text file is cut into documents of 32 kB, JSONL and Parquet hold "
                "one a row",
            )
        most = self._largest[1] if 2 * self._largest[0] > self.characters else None
        least = min(at for at in self._first if at != most)
        threshold = min(max(int(HELD_OUT_SHARE * 2**64), least), max(self._last[0], least))
        single = set()
        for count, near in self._near:
            single.update(sorted(set(near))[: int(HELD_OUT_SHARE * count)])
        return HoldOut(threshold, frozenset(at for at in single if at > threshold), most)
