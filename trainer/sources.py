"""Where text comes from: plain text, JSONL, Parquet, or the running interpreter's own standard library.

Documents are streamed: a source of gigabytes is never in memory.
"""

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from trainer.errors import CorpusError

_PIECE = 32_768  # a plain text file is cut at line ends into documents of about this many characters
_BLOCK = 1 << 20
# Tests, other people's packages, and tables that a program wrote: none of it is code that somebody wrote to be read.
_SKIPPED_PARTS = {"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
_SKIPPED_PARTS |= {"encodings", "pydoc_data", "ensurepip", "turtledemo"}


class Source(BaseModel):
    """One source of documents. `name` is what errors call it; a server knows files only by their hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["text", "jsonl", "parquet", "stdlib"] = "text"
    path: Path | None = Field(default=None, description="A file; none for the standard library")
    field: str = Field(default="text", description="JSONL and Parquet: where the text is")
    name: str | None = None
    weight: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Share of the training tokens; by size without one"
    )

    @property
    def title(self) -> str:
        """Short, for tables and metrics."""
        return self.name or (self.path.stem if self.path else "stdlib")

    @property
    def label(self) -> str:
        """For people."""
        return self.name or (str(self.path) if self.path else "the standard library")

    def documents(self) -> Iterator[str]:
        """Non-blank documents, in the order of the file.

        Raises:
            CorpusError: missing, unreadable, wrongly encoded, without the field.
        """
        if self.format == "stdlib":
            return _standard_library()
        if self.path is None or not self.path.is_file():
            raise CorpusError(f"{self.label}: there is no such file", advice="check the path, or upload the file again")
        readers = {"text": self._text, "jsonl": self._jsonl, "parquet": self._parquet}
        return (text for text in readers[self.format](self.path) if text.strip())

    def fingerprint(self) -> str:
        """sha256 of what determines the documents."""
        digest = hashlib.sha256(f"{self.format}\0{self.field}\0".encode())
        if self.format == "stdlib":
            for text in _standard_library():
                digest.update(text.encode())
        elif self.path is not None and self.path.is_file():
            with self.path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        return digest.hexdigest()

    def _text(self, path: Path) -> Iterator[str]:
        lines: list[str] = []
        size = 0
        for line in self._lines(path):
            lines.append(line)
            size += len(line)
            if size >= _PIECE:
                yield "".join(lines)
                lines, size = [], 0
        yield "".join(lines)

    def _jsonl(self, path: Path) -> Iterator[str]:
        for number, line in enumerate(self._lines(path), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as wrong:
                raise CorpusError(
                    f"{self.label}, line {number} is not JSON: {wrong}", advice="one JSON object per line"
                ) from wrong
            if not isinstance(record, dict) or not isinstance(record.get(self.field), str):
                there = ", ".join(map(str, record)) if isinstance(record, dict) else "no object"
                raise CorpusError(
                    f"{self.label}, line {number} has no text under {self.field!r} (there is: {there})",
                    advice="name the field that holds the text",
                )
            # JSON can spell half a surrogate pair, which is no text: no encoder takes it.
            yield record[self.field].encode("utf-8", "replace").decode("utf-8")

    def _lines(self, path: Path) -> Iterator[str]:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                yield from file
        except UnicodeDecodeError as wrong:
            raise CorpusError(
                f"{self.label} is not UTF-8: byte 0x{wrong.object[wrong.start]:02x} ({wrong.reason})",
                advice="convert it first, for example with iconv -f LATIN1 -t UTF-8",
            ) from wrong

    def _parquet(self, path: Path) -> Iterator[str]:
        try:
            with pq.ParquetFile(path) as table:
                if self.field not in table.schema_arrow.names:
                    there = ", ".join(table.schema_arrow.names)
                    raise CorpusError(
                        f"{self.label} has no column {self.field!r} (there is: {there})",
                        advice="name the column that holds the text",
                    )
                kind = table.schema_arrow.field(self.field).type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise CorpusError(
                        f"{self.label}: column {self.field!r} holds {kind}, not text", advice="name a column of strings"
                    )
                for rows in table.iter_batches(batch_size=1024, columns=[self.field]):
                    yield from (value for value in rows.column(0).to_pylist() if value)
        except (pa.ArrowException, OSError) as wrong:
            raise CorpusError(
                f"{self.label} is not a readable Parquet file: {wrong}", advice="it may be cut short; copy it again"
            ) from wrong


def all_documents(sources: Iterable[Source]) -> Iterator[str]:
    """The documents of every source in turn."""
    for source in sources:
        yield from source.documents()


def _standard_library() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        if _SKIPPED_PARTS.isdisjoint(path.relative_to(root).parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                yield text
