"""Writes the shards of one source and split so that a killed process loses only what came after its last checkpoint."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.shards import file_hash

_SHARD_TOKENS = 1 << 25
_LENGTH = np.dtype(np.uint32)


class Writer:
    """Appends documents; `state` is what a later process needs to go on, once `sync` has returned."""

    def __init__(self, directory: Path, source: int, split: str, dtype: np.dtype[Any], state: dict[str, Any]) -> None:
        self._directory, self._source, self._split, self._dtype = directory, source, split, dtype
        self.tokens: list[int] = list(state.get("tokens", []))  # of each shard; the last one is open
        self.documents: list[int] = list(state.get("documents", []))
        self.bytes: int = state.get("bytes", 0)
        self._files: list[Any] = []
        if self.tokens:
            self._open()

    @property
    def state(self) -> dict[str, Any]:
        """JSON."""
        return {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes}

    def add(self, ids: np.ndarray[Any, Any], size: int) -> None:
        """Append a document of `size` bytes."""
        if not self.tokens or self.tokens[-1] >= _SHARD_TOKENS:
            self.sync()
            self._close()
            self.tokens.append(0)
            self.documents.append(0)
            self._open()
        self._files[0].write(ids.astype(self._dtype).tobytes())
        self._files[1].write(np.asarray([len(ids)], dtype=_LENGTH).tobytes())
        self.tokens[-1] += len(ids)
        self.documents[-1] += 1
        self.bytes += size

    def sync(self) -> None:
        """Bring to the disk what was added."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> list[dict[str, Any]]:
        """Name every shard by its hash; may be called again after a crash. Returns what meta.json says of them."""
        self.sync()
        self._close()
        found = []
        for number, counts in enumerate(zip(self.tokens, self.documents, strict=True)):
            for kind, items, dtype in zip(("tokens", "lengths"), counts, (self._dtype, _LENGTH), strict=True):
                part = self._part(number, kind)
                named = next(self._directory.glob(f"{part.stem}-*.bin"), part)
                digest = file_hash(named)
                path = self._directory / f"{part.stem}-{digest[:16]}.bin"
                named.rename(path)
                about = {"source": self._source, "split": self._split, "kind": kind, "dtype": dtype.name}
                found.append({**about, "file": path.name, "sha256": digest, "items": items})
        return found

    def _part(self, number: int, kind: str) -> Path:
        return self._directory / f"{self._source:04d}-{self._split}-{kind}-{number:05d}.part"

    def _open(self) -> None:
        """Open the last shard's files, without what a dead process wrote after its last checkpoint."""
        number = len(self.tokens) - 1
        sizes = (self.tokens[-1] * self._dtype.itemsize, self.documents[-1] * _LENGTH.itemsize)
        for kind, size in zip(("tokens", "lengths"), sizes, strict=True):
            path = self._part(number, kind)
            if size and not path.exists():
                return  # everything was written: a process died while naming the shards
            file = path.open("r+b" if path.exists() else "w+b")
            file.truncate(size)
            file.seek(size)
            self._files.append(file)

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []
