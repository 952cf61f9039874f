"""A stream: documents laid end to end, cut into windows anywhere or within long documents only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.shards import Tokens


@dataclass(frozen=True)
class Stream:
    """Tokens and the length of each document in them, its end of text counted."""

    tokens: Tokens
    lengths: NDArray[np.uint32]
    _long: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tokens: Sequence[NDArray[Any]], lengths: Sequence[NDArray[np.uint32]]) -> "Stream":
        """Of mapped shards."""
        return cls(Tokens(tokens), np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.uint32))

    @classmethod
    def joined(cls, parts: Sequence["Stream"]) -> "Stream":
        """Several streams end to end; nothing is copied but document lengths."""
        return cls.of([shard for part in parts for shard in part.tokens.shards], [part.lengths for part in parts])

    def windows(self, sequence: int) -> int:
        """Whole windows of `sequence` inputs, each with the token that follows it."""
        return max(0, len(self.tokens) - 1) // sequence

    def long_windows(self, sequence: int) -> int:
        """Windows that lie within one document."""
        ends, _ = self._table(sequence)
        return int(ends[-1]) if len(ends) else 0

    def long_start(self, window: int, sequence: int, offset: float) -> int:
        """Where one of `long_windows` begins; `offset` in [0, 1) moves the cuts of every document."""
        ends, rows = self._table(sequence)
        row = int(np.searchsorted(ends, window, side="right"))
        begin, length = (int(value) for value in rows[row])
        before = int(ends[row]) - length // sequence
        slack = length % sequence
        return begin + int(offset * (slack + 1)) + (window - before) * sequence

    def _table(self, sequence: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(windows up to and with each long document, (begin, length) of each)."""
        if sequence not in self._long:
            lengths = self.lengths.astype(np.int64)
            begins = np.cumsum(lengths) - lengths
            if len(lengths):
                lengths[-1] -= 1  # nothing follows the last token
            long = lengths >= sequence
            self._long[sequence] = (
                np.cumsum(lengths[long] // sequence),
                np.stack([begins[long], lengths[long]], axis=1),
            )
        return self._long[sequence]
