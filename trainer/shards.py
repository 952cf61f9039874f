"""Named tensors in a directory, written and read by all ranks at once (torch.distributed.checkpoint).

Each rank writes what it holds. How many there were does not matter to those that read: each takes the parts it needs.
"""

import errno
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.futures import Future

from trainer.errors import CheckpointError
from trainer.files import fsync_directory, is_full, write_text
from trainer.ranks import Ranks

_NOTES, _SUMS = "notes.json", "sha256.json"
_DELETE = "delete it to train from the start"


def write_shards(tensors: Mapping[str, Tensor], notes: Mapping[str, Any], folder: Path, ranks: Ranks) -> None:
    """Write all ranks' parts of `tensors`, `notes` as JSON, and the sha256 of every file, flushed to the disk.

    Raises:
        OSError: the disk is full or refuses; raised on every rank.
    """
    with _plainly():
        save(dict(tensors), storage_writer=_Writer(folder), no_dist=ranks.mesh is None)
    sums: dict[str, str] = {}
    for found in ranks.told(lambda: _sums(folder.glob(f"__{ranks.rank}_*"))):
        sums |= found
    ranks.once(lambda: _conclude(folder, notes, sums))


class Shards:
    """What `write_shards` left in a directory, every file as it was written."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder, self._ranks = folder, ranks
        self._verify()
        try:
            self.notes: dict[str, Any] = json.loads((folder / _NOTES).read_text())
            self._known = FileSystemReader(folder).read_metadata().state_dict_metadata
        except (OSError, ValueError) as wrong:
            raise CheckpointError(f"{folder} cannot be read: {wrong}", advice=_DELETE) from wrong

    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """(shape, type) of every tensor, whole."""
        known = {name: there for name, there in self._known.items() if isinstance(there, TensorStorageMetadata)}
        return {name: (tuple(there.size), there.properties.dtype) for name, there in known.items()}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy into `tensors`, sharded as they are.

        Raises:
            CheckpointError: a tensor that is missing here, or of another shape.
        """
        shapes = self.shapes()
        for name, tensor in tensors.items():
            if name not in shapes or shapes[name][0] != tuple(tensor.shape):
                there = f"is {list(shapes[name][0])}" if name in shapes else "is missing"
                raise CheckpointError(
                    f"{self._folder} belongs to another architecture: {name} {there}, not {list(tensor.shape)}",
                    advice="train in another directory",
                )
        try:
            with _plainly():
                load(dict(tensors), storage_reader=FileSystemReader(self._folder), no_dist=self._ranks.mesh is None)
        except OSError as wrong:
            raise CheckpointError(f"{self._folder} cannot be read: {wrong}", advice=_DELETE) from wrong

    def _verify(self) -> None:
        """Raise CheckpointError unless every file is as it was written; each rank reads its share of them."""
        try:
            sums = json.loads((self._folder / _SUMS).read_text())
            mine = sorted(sums)[self._ranks.rank :: self._ranks.world]
            read = self._ranks.told(lambda: _sums(self._folder / name for name in mine))
            damaged = sorted(name for found in read for name, sum_ in found.items() if sums[name] != sum_)
        except (OSError, ValueError, TypeError) as wrong:
            raise CheckpointError(f"{self._folder} cannot be read: {wrong}", advice=_DELETE) from wrong
        if damaged:
            raise CheckpointError(f"{self._folder}: {', '.join(damaged)} changed since it was written", advice=_DELETE)


class _Writer(FileSystemWriter):
    """Torch's, which tells of a full disk as what it is: its archives only know of an unexpected position."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[Any]:
        """As the parent's."""
        try:
            return super().write_data(plan, planner)
        except (OSError, RuntimeError) as wrong:
            if is_full(wrong):
                raise OSError(errno.ENOSPC, "No space left on device") from wrong
            raise


@contextmanager
def _plainly() -> Iterator[None]:
    """Errors of torch's checkpoints as they were before they were wrapped, whichever rank's they are.

    Its wrapper is a BaseException, and alone it warns of being alone.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as wrong:
            first = next(error for error, _ in wrong.failures.values())
            if isinstance(first, OSError):
                raise first from wrong
            raise OSError(str(first)) from wrong


def _sums(files: Iterator[Path]) -> dict[str, str]:
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _conclude(folder: Path, notes: Mapping[str, Any], sums: dict[str, str]) -> None:
    write_text(folder / _NOTES, json.dumps(notes))
    sums |= _sums(iter([folder / ".metadata", folder / _NOTES]))
    write_text(folder / _SUMS, json.dumps(sums, indent=2))
    fsync_directory(folder)
