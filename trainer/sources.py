"""Where text comes from: files of text, JSONL or Parquet, a dataset's folder, or the interpreter's standard library.

Documents are streamed: a source of gigabytes is never in memory.
"""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.errors import CorpusError
from trainer.readers import folder, lines, tables

Format = Literal["text", "jsonl", "parquet", "datasets", "stdlib"]

_BLOCK = 1 << 20
# Tests, other people's packages, and tables that a program wrote: none of it is code that somebody wrote to be read.
_SKIPPED_PARTS = {"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
_SKIPPED_PARTS |= {"encodings", "pydoc_data", "ensurepip", "turtledemo"}
_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


class Source(BaseModel):
    """One source of documents. `name` is what errors call it; a server knows files only by their hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format = "text"
    path: Path | None = Field(default=None, description="A file, or a dataset's folder; none for the standard library")
    field: str = Field(default="text", description="JSONL, Parquet and datasets: where the text is")
    split: str | None = Field(default=None, description="Datasets: which split; train without one")
    name: str | None = None
    weight: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Share of the training tokens; by size without one"
    )

    @classmethod
    def at(cls, path: Path, **fields: object) -> "Source":
        """Of a path whose name tells the format; text and JSONL may end in .gz or .zst."""
        plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
        format_ = "datasets" if path.is_dir() else _SUFFIXES.get(plain.suffix, "text")
        return cls.model_validate({"format": format_, "path": path, **fields})

    @property
    def title(self) -> str:
        """Short, for tables and metrics."""
        if self.name or self.path is None:
            return self.name or "stdlib"
        return self.path.resolve().name if self.path.is_dir() else self.path.name.split(".")[0] or self.path.name

    @property
    def label(self) -> str:
        """For errors."""
        return self.name or (str(self.path) if self.path else "the standard library")

    def documents(self) -> Iterator[str]:
        """Non-blank documents, in the order of the file.

        Raises:
            CorpusError: missing, unreadable, wrongly encoded, without the field.
        """
        if self.format == "stdlib":
            return _standard_library()
        return (text for path in self.files() for text in self._read(path) if text.strip())

    def files(self) -> list[Path]:
        """The files that hold the documents.

        Raises:
            CorpusError: there are none.
        """
        if self.format == "stdlib":
            return []
        if self.format == "datasets" and self.path is not None and self.path.is_dir():
            return folder.shards(self.path, self.label, self.split)
        if self.path is None or not self.path.is_file():
            kind = "folder" if self.format == "datasets" else "file"
            raise CorpusError(
                f"{self.label}: there is no such {kind}", advice="check the path, or upload the file again"
            )
        return [self.path]

    def fingerprint(self) -> str:
        """sha256 of what determines the documents.

        Raises:
            CorpusError: there are no files.
        """
        digest = hashlib.sha256(f"{self.format}\0{self.field}\0".encode())
        if self.format == "stdlib":
            for text in _standard_library():
                digest.update(text.encode())
        for path in self.files():
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        return digest.hexdigest()

    def _read(self, path: Path) -> Iterator[str]:
        label = self.label if path == self.path else f"{self.label}/{path.name}"
        if self.format == "text":
            return lines.text(path, label)
        if path.suffix == ".parquet" or self.format == "parquet":
            return tables.parquet(path, label, self.field)
        if path.suffix == ".arrow":
            return tables.arrow(path, label, self.field)
        return lines.jsonl(path, label, self.field)


def _standard_library() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        if _SKIPPED_PARTS.isdisjoint(path.relative_to(root).parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                yield text
