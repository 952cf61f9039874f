"""Bytes under their own hash, in one directory. No name that a user gives becomes a path."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from device_agent.contracts import Sha256
from server.clock import Clock, utc_now
from server.database import Database
from server.errors import ArtifactLost, DiskFull, HashMismatch, NotFound, TooLarge
from server.settings import Settings
from server.tables import ArtifactRow

_NAME = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """Content-addressed files: written beside, hashed, synced, renamed. What has a name is whole."""

    def __init__(self, database: Database, settings: Settings, clock: Clock = utc_now) -> None:
        self._database, self._clock = database, clock
        self._root = settings.artifacts
        self._max_bytes, self._min_free = settings.max_artifact_bytes, settings.min_free_bytes

    def path(self, sha256: Sha256) -> Path:
        """Where the bytes lie.

        Raises:
            NotFound: they are not here.
        """
        path = self._place(sha256)
        if not path.is_file():
            raise NotFound(f"there is no artifact {sha256}", advice=f"Upload it: PUT /v1/artifacts/{sha256}.")
        return path

    def has(self, sha256: Sha256) -> bool:
        """Whether the bytes are here."""
        return self._place(sha256).is_file()

    def size(self, sha256: Sha256) -> int:
        """Bytes.

        Raises:
            NotFound: they are not here.
        """
        return self.path(sha256).stat().st_size

    def get(self, sha256: Sha256) -> bytes:
        """What was kept under this name.

        Raises:
            ArtifactLost: it is not here, though our tables name it.
        """
        try:
            return self._place(sha256).read_bytes()
        except FileNotFoundError:
            raise ArtifactLost(
                f"the stored bytes {sha256} are gone", advice=f"Restore {self._root} from a backup, or start anew."
            ) from None

    def put(self, data: bytes) -> Sha256:
        """Keep `data`; returns its name. With `get`, this is `search.ports.Store`."""
        name = hashlib.sha256(data).hexdigest()
        if not self.has(name):
            self.receive(name, [data])
        return name

    def receive(self, sha256: Sha256, chunks: Iterable[bytes]) -> int:
        """Keep a stream under the name it must hash to; returns its size. What fails leaves nothing behind.

        Raises:
            HashMismatch: the bytes are others.
            TooLarge: more than the limit.
            DiskFull: too little would stay free.
        """
        with self.incoming(sha256) as sink:
            for chunk in chunks:
                sink.write(chunk)
        return sink.size

    @contextmanager
    def incoming(self, sha256: Sha256) -> Iterator["Sink"]:
        """A sink to write to; leaving the block checks the hash and gives the bytes their name.

        Raises:
            HashMismatch, TooLarge, DiskFull: as `receive`.
        """
        place = self._place(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._root, prefix="incoming-", delete=False) as file:
            try:
                sink = Sink(file, self._root, self._max_bytes, self._min_free)
                yield sink
                if sink.sha256 != sha256:
                    raise HashMismatch(
                        f"the bytes hash to {sink.sha256}, not to {sha256}",
                        advice="Hash the file that is sent, and send all of it.",
                    )
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(place)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        _sync_directory(place.parent)
        self._remember(sha256, sink.size)

    def _remember(self, sha256: Sha256, size: int) -> None:
        with self._database.write() as session:
            if session.get(ArtifactRow, sha256) is None:
                session.add(ArtifactRow(sha256=sha256, size=size, created_at=self._clock()))

    def _place(self, sha256: Sha256) -> Path:
        if not _NAME.fullmatch(sha256):
            raise NotFound(f"{sha256!r} is no sha256", advice="Name an artifact by 64 lower-case hex digits.")
        return self._root / sha256[:2] / sha256


class Sink:
    """Takes bytes up to a limit, hashing them on their way."""

    _CHECK_EVERY = 64 << 20

    def __init__(self, file: IO[bytes], root: Path, max_bytes: int, min_free: int) -> None:
        self._file, self._root, self._max_bytes, self._min_free = file, root, max_bytes, min_free
        self._hash = hashlib.sha256()
        self.size = 0
        self._check_at = 0

    @property
    def sha256(self) -> Sha256:
        """The hash of what was written so far."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            TooLarge: more than the limit.
            DiskFull: too little would stay free.
        """
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise TooLarge(
                f"an artifact may have {self._max_bytes} bytes at most",
                advice="Split the file, or raise FULCRUM_MAX_ARTIFACT_BYTES.",
            )
        if self.size >= self._check_at:
            self._check_at = self.size + self._CHECK_EVERY
            if shutil.disk_usage(self._root).free - len(chunk) < self._min_free:
                raise DiskFull(
                    f"less than {self._min_free} bytes would stay free",
                    advice="Free disk space where FULCRUM_HOME lies, then send it again.",
                )
        self._file.write(chunk)
        self._hash.update(chunk)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
