"""A teacher's top K, computed once for the windows of a training and kept in hashed, memory-mapped shards.

Windows are numbered in the order in which training visits them, which does not depend on the batch's size: one cache
serves every student that reads the same text in the same order, for as many epochs as it covers. Each window is
compressed on its own, and found by a table at the beginning of its shard.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.data import Batch, Corpus
from trainer.distil import TopK
from trainer.engine import never
from trainer.errors import Interrupted, TeacherError
from trainer.files import fsync_directory, write_text
from trainer.teachers.codec import decode, encode
from trainer.teachers.teacher import Teacher

_LAYOUT = 1  # raise it when the bytes or their meaning change
_SHARD_TOKENS = 1 << 19
_MANIFEST = "teacher-cache.json"

Report = Callable[[int, int], None]
"""(windows done, windows in all)."""


def silent(done: int, total: int) -> None:
    """A Report that nobody reads."""


class Plan(BaseModel):
    """What determines a cache: whose predictions, of which windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    """The corpus's key."""
    teacher: str
    """sha256 of the teacher's files, as `trainer.teachers.folder.identity` tells it."""
    vocab_size: int
    sequence: int
    seed: int
    top_k: int

    @property
    def key(self) -> str:
        """A good name for the cache's directory."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Shard(BaseModel):
    """Windows [first, first + windows) in one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    first: int
    windows: int
    bytes: int


class Manifest(BaseModel):
    """What lies beside the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: int
    name: str
    plan: Plan
    shards: tuple[Shard, ...] = ()

    @property
    def windows(self) -> int:
        """How many are covered, from the first on."""
        return sum(shard.windows for shard in self.shards)

    def refuse(self, plan: Plan, directory: Path, *, up_to_k: bool = False) -> None:
        """Raise TeacherError, saying what differs, unless `plan` is this one's."""
        for field, value in plan:
            found = getattr(self.plan, field)
            if found != value and not (up_to_k and field == "top_k" and found > value):
                raise TeacherError(
                    f"{directory} holds a cache for another {field}: {found}, not {value}",
                    advice=f"train with its {field}, or make another cache in another directory",
                )


def is_cache(folder: Path) -> bool:
    """Whether `teach` made this folder."""
    return (folder / _MANIFEST).exists()


class TeacherCache:
    """A teacher that remembers. Its logits are rounded as `trainer.teachers.codec` says."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.name = f"{manifest.name} (cached)"
        self._firsts = [shard.first for shard in manifest.shards]
        self._mapped: dict[int, NDArray[np.uint8]] = {}

    @classmethod
    def open(cls, directory: Path) -> "TeacherCache":
        """Open what `teach` made.

        Raises:
            TeacherError: there is no cache, or its manifest is damaged or of another version.
        """
        return cls(directory, _read_manifest(directory))

    @property
    def bytes_per_token(self) -> float:
        """On the disk, everything counted but the manifest."""
        stored = sum(shard.bytes for shard in self.manifest.shards)
        return stored / max(1, self.manifest.windows * self.manifest.plan.sequence)

    def require(self, plan: Plan, windows: int) -> None:
        """Raise TeacherError, saying what differs, unless this covers `windows` windows of `plan`.

        Of a larger K, the likeliest are taken.
        """
        self.manifest.refuse(plan, self.directory, up_to_k=True)
        if windows > self.manifest.windows:
            raise TeacherError(
                f"{self.directory} covers {self.manifest.windows} windows of {plan.sequence} tokens, not {windows}",
                advice=f"make it again with {windows * plan.sequence} tokens: it carries on where it ended",
            )

    def top_k(self, batch: Batch, k: int) -> TopK:
        """See `trainer.teachers.teacher.Teacher`; read by `batch.indices`.

        Raises:
            TeacherError: a window that is not covered, or a shard that is damaged.
        """
        rows = [self._window(int(index)) for index in batch.indices.tolist()]
        ids, logits, logsumexp = (torch.stack(each).to(batch.inputs.device) for each in zip(*rows, strict=True))
        return TopK(ids[..., :k], logits[..., :k], logsumexp)

    def _window(self, index: int) -> TopK:
        place = bisect_right(self._firsts, index) - 1
        if place < 0 or index >= self.manifest.windows:
            raise TeacherError(
                f"{self.directory} covers {self.manifest.windows} windows, and window {index} is asked for",
                advice="make it again with more tokens: it carries on where it ended",
            )
        shard, bytes_ = self.manifest.shards[place], self._shard(place)
        row, table = index - shard.first, bytes_[: 8 * (shard.windows + 1)].view("<u8")
        packed = bytes_[int(table[row]) : int(table[row + 1])].tobytes()
        return decode(packed, self.manifest.plan.sequence, self.manifest.plan.top_k)

    def _shard(self, place: int) -> NDArray[np.uint8]:
        """Mapped; read once in whole when it is first needed, to compare its hash."""
        if place not in self._mapped:
            shard = self.manifest.shards[place]
            path = self.directory / shard.file
            advice = "delete the cache and make it again"
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as wrong:
                raise TeacherError(f"{path} cannot be read: {wrong}", advice=advice) from wrong
            if found != shard.sha256:
                raise TeacherError(f"{path} changed since it was written", advice=advice)
            self._mapped[place] = np.memmap(path, dtype=np.uint8, mode="r")
        return self._mapped[place]


def teach(
    teacher: Teacher,
    corpus: Corpus,
    directory: Path,
    plan: Plan,
    *,
    windows: int,
    batch: int = 8,
    shard_tokens: int = _SHARD_TOKENS,
    report: Report = silent,
    should_stop: Callable[[], bool] = never,
) -> TeacherCache:
    """Fill the cache at `directory` until it covers `windows` windows, from where an earlier call left off.

    A call that is killed loses the shard it was at, at most `shard_tokens` tokens.

    Raises:
        TeacherError: another plan's cache is there, or the disk is full or refuses; whole shards stay.
        Interrupted: `should_stop` said so; what was computed is kept.
    """
    manifest = _begun(directory, teacher.name, plan)
    size = max(1, shard_tokens // plan.sequence)
    while (first := manifest.windows) < windows:
        packed: list[bytes] = []
        stopped = False
        while len(packed) < size and first + len(packed) < windows and not stopped:
            part = _aligned(corpus, plan, first + len(packed), batch, min(windows, first + size))
            known = teacher.top_k(part, plan.top_k)
            packed += [encode(TopK(*(each[row] for each in known))) for row in range(len(part.indices))]
            report(first + len(packed), windows)
            stopped = should_stop() and first + len(packed) < windows
        manifest = _kept(directory, manifest, packed)
        if stopped:
            raise Interrupted(
                f"stopped after {manifest.windows} of {windows} windows", advice="start it again to carry on"
            )
    return TeacherCache(directory, manifest)


def _aligned(corpus: Corpus, plan: Plan, index: int, most: int, end: int) -> Batch:
    """The batch that begins with window `index`: the largest whose size divides it, at most `most` and up to `end`."""
    size = next(size for size in range(min(most, end - index), 0, -1) if index % size == 0)
    return corpus.batch(index // size, size=size, sequence=plan.sequence, seed=plan.seed)


def _begun(directory: Path, name: str, plan: Plan) -> Manifest:
    if not (directory / _MANIFEST).exists():
        manifest = Manifest(layout=_LAYOUT, name=name, plan=plan)
        _write(directory, lambda: _replace(directory / _MANIFEST, manifest.model_dump_json(indent=2)))
        return manifest
    manifest = _read_manifest(directory)
    manifest.refuse(plan, directory)
    return manifest


def _kept(directory: Path, manifest: Manifest, packed: list[bytes]) -> Manifest:
    """The shard on the disk first, then the manifest that names it."""
    table = np.cumsum([8 * (len(packed) + 1), *map(len, packed)]).astype("<u8")
    data = table.tobytes() + b"".join(packed)
    digest = hashlib.sha256(data).hexdigest()
    first = manifest.windows
    file = f"windows-{first:09d}-{digest[:16]}.bin"
    shard = Shard(file=file, sha256=digest, first=first, windows=len(packed), bytes=len(data))
    grown = manifest.model_copy(update={"shards": (*manifest.shards, shard)})

    def write() -> None:
        draft = directory / f".{file}.{os.getpid()}.draft"
        try:
            with draft.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            draft.rename(directory / file)
        finally:
            draft.unlink(missing_ok=True)
        _replace(directory / _MANIFEST, grown.model_dump_json(indent=2))

    _write(directory, write)
    return grown


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    write_text(draft, text)
    draft.rename(path)
    fsync_directory(path.parent)


def _write(directory: Path, write: Callable[[], Any]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as wrong:
        raise TeacherError(
            f"{directory} cannot be written: {wrong}", advice="free some space and start again: whole shards are kept"
        ) from wrong


def _read_manifest(directory: Path) -> Manifest:
    try:
        text = (directory / _MANIFEST).read_text()
        if json.loads(text).get("layout") != _LAYOUT:
            raise TeacherError(f"{directory} was made by another version", advice="delete it and make it again")
        return Manifest.model_validate_json(text)
    except (OSError, ValidationError, ValueError, AttributeError) as wrong:
        raise TeacherError(f"{directory} is not a teacher's cache: {wrong}", advice="check the path") from wrong
