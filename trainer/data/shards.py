"""Shards: tokens of one source and split on disk, named by their hash; many of them read as one sequence."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import CorpusError

_MEND = "delete the corpus and prepare it again"


def opened(directory: Path, shard: dict[str, Any], dtype: str) -> NDArray[Any]:
    """Map a file of the corpus, whose size is compared here and whose hash `verify` compares.

    Raises:
        CorpusError: missing, or of another size than was written.
    """
    path, kind = directory / shard["file"], np.dtype(dtype)
    if not path.is_file() or path.stat().st_size != shard["items"] * kind.itemsize:
        raise CorpusError(f"{path} is missing or cut short", advice=_MEND)
    if not shard["items"]:
        return np.zeros(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")


def verify(directory: Path, shard: dict[str, Any]) -> None:
    """Read a file and compare its hash.

    Raises:
        CorpusError: it is not what was written.
    """
    path = directory / shard["file"]
    if file_hash(path) != shard["sha256"]:
        raise CorpusError(f"{path} has changed on disk: its sha256 is not the one that was written", advice=_MEND)


def file_hash(path: Path) -> str:
    """sha256 of a file.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as wrong:
        raise CorpusError(f"{path} cannot be read: {wrong.strerror}", advice=_MEND) from wrong


class Tokens:
    """Shards laid end to end."""

    def __init__(self, shards: Sequence[NDArray[Any]]) -> None:
        self.shards = [shard for shard in shards if len(shard)]
        self._ends = np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.shards else 0

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens [start, stop), as int64."""
        parts = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            shard, end = self.shards[number], int(self._ends[number])
            first = start - (end - len(shard))
            part = shard[first : first + stop - start]
            parts.append(part)
            start, number = start + len(part), number + 1
        return np.concatenate(parts).astype(np.int64)
