"""Corpora: lists of uploaded files to read text from."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import select

from device_agent.contracts import Sha256, content_hash
from server.api.views import CorpusFile, CorpusSpec, CorpusView
from server.artifacts import ArtifactStore
from server.clock import Clock, utc_now
from server.database import Database
from server.errors import CorpusEmpty, CorpusMissing, NotFound, TokenizerMissing
from server.tables import CorpusRow
from trainer.sources import Source
from trainer.tokenizer import load_tokenizer, require_fit

_OPENING = 8_000_000  # characters of each file that are read before it is accepted: a fraction of a second
_FILES = TypeAdapter(tuple[CorpusFile, ...])


class Corpora:
    """Registers and shows corpora."""

    def __init__(self, database: Database, artifacts: ArtifactStore, clock: Clock = utc_now) -> None:
        self._database, self._artifacts, self._clock = database, artifacts, clock

    def register(self, spec: CorpusSpec) -> tuple[CorpusView, bool]:
        """Keep a corpus; returns it, and whether it is new. The same files give the same id.

        Raises:
            CorpusMissing: a file was never uploaded.
            CorpusEmpty: no file holds any text.
            TrainerError: a file cannot be read as its format says.
        """
        for file in spec.files:
            if not self._artifacts.has(file.sha256):
                raise CorpusMissing(
                    f"file {file.name or file.sha256} of the corpus was not uploaded",
                    advice=f"Upload it first: PUT /v1/artifacts/{file.sha256}.",
                )
        if not sum(_opening(source) for source in self._sources(spec.name, spec.files)):
            raise CorpusEmpty(f"corpus {spec.name} holds no text", advice="Name at least one file that is not blank.")
        size = sum(self._artifacts.size(file.sha256) for file in spec.files)
        name = content_hash([[file.sha256, file.format, file.field] for file in spec.files])[:20]
        with self._database.write() as session:
            row = session.get(CorpusRow, name)
            new = row is None
            if row is None:
                files = _FILES.dump_json(spec.files).decode()
                row = CorpusRow(id=name, name=spec.name, files_json=files, bytes=size, created_at=self._clock())
                session.add(row)
            return _view(row), new

    def view(self, corpus: str) -> CorpusView:
        """One corpus.

        Raises:
            NotFound: no such corpus.
        """
        with self._database.read() as session:
            row = session.get(CorpusRow, corpus)
            if row is None:
                raise NotFound(
                    f"there is no corpus {corpus}", advice="List them: `fulcrum corpus list`, or GET /v1/corpora."
                )
            return _view(row)

    def sources(self, corpus: str) -> list[Source]:
        """Where the trainer reads a corpus.

        Raises:
            NotFound: no such corpus.
        """
        view = self.view(corpus)
        return self._sources(view.name, view.files)

    def tokenizer(self, sha256: Sha256 | None, vocab_size: int) -> Path | None:
        """Where an uploaded tokenizer lies; None stands for one that is trained on the corpus.

        Raises:
            TokenizerMissing: it was never uploaded.
            TrainerError: it cannot be read, or has more ids than `vocab_size`.
        """
        if sha256 is None:
            return None
        if not self._artifacts.has(sha256):
            raise TokenizerMissing(
                f"tokenizer {sha256} was not uploaded", advice=f"Upload its tokenizer.json: PUT /v1/artifacts/{sha256}."
            )
        path = self._artifacts.path(sha256)
        require_fit(load_tokenizer(path, f"tokenizer {sha256[:12]}"), vocab_size)
        return path

    def _sources(self, name: str, files: Sequence[CorpusFile]) -> list[Source]:
        return [
            Source(
                format=file.format,
                path=self._artifacts.path(file.sha256),
                field=file.field or "text",
                name=file.name or f"file {file.sha256[:12]} of corpus {name}",
            )
            for file in files
        ]

    def all(self) -> list[CorpusView]:
        """Every corpus, newest first."""
        with self._database.read() as session:
            rows = session.scalars(select(CorpusRow).order_by(CorpusRow.created_at.desc(), CorpusRow.id))
            return [_view(row) for row in rows]


def _opening(source: Source) -> int:
    """Read the first documents as a search will; returns their characters.

    Raises:
        TrainerError: they cannot be read as the source's format says.
    """
    read = 0
    for document in source.documents():
        read += len(document)
        if read >= _OPENING:
            break
    return read


def _view(row: CorpusRow) -> CorpusView:
    files = _FILES.validate_json(row.files_json)
    return CorpusView(id=row.id, name=row.name, files=files, bytes=row.bytes, created_at=row.created_at)
