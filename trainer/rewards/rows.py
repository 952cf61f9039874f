"""Problems of JSONL files: a level each, called as its file."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.readers.chats import expected
from trainer.rewards.problem import Problem, ProblemError, number_of

_LONGEST_LINE = 1 << 20


class OfFiles(BaseModel):
    """Where problems of files come from; who verifies is another's matter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: ClassVar[tuple[str, str]]
    """The keys of a row that hold the problem, and what an answer is held against."""

    files: tuple[Path, ...] = Field(min_length=1, description="A level each, easy to hard, called as its file")

    @field_validator("files")
    @classmethod
    def _distinct(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        if len({file.stem for file in files}) < len(files):
            raise ValueError("two files have one name, which would be that of their levels")
        return files

    @property
    def names(self) -> tuple[str, ...]:
        """See `Tasks`."""
        return tuple(file.stem for file in self.files)

    def problem(self, level: str, seed: int) -> Problem:
        """See `Tasks`."""
        rows = read(next(file for file in self.files if file.stem == level), self.columns)
        number = number_of("row", seed) % len(rows)
        return Problem(*rows[number], level, f"{level}#{number}")

    def identity(self) -> str:
        """See `Tasks`: the sha256 of the files."""
        digest = hashlib.sha256()
        for file in self.files:
            read(file, self.columns)
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


@cache
def read(file: Path, columns: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The two columns of every row; a `question` is a problem too, and answers may be worked: `readers.chats.expected`.

    Raises:
        ProblemError: the file cannot be read, has no rows, or one that is none; its line is named.
    """
    rows = []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, f"{file}, line {number}", columns))
    except OSError as wrong:
        raise ProblemError(f"{file} cannot be read: {wrong}", advice="check the path") from wrong
    if not rows:
        raise ProblemError(f"{file} has no problems", advice=f'write rows {{"{columns[0]}": ..., "{columns[1]}": ...}}')
    return tuple(rows)


def _row(line: bytes, where: str, columns: tuple[str, str]) -> tuple[str, str]:
    if len(line) > _LONGEST_LINE:
        raise ProblemError(f"{where} has {len(line)} bytes, and may have {_LONGEST_LINE}", advice="remove it")
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except ValueError as wrong:
        raise ProblemError(f"{where} is no JSON in UTF-8: {wrong}", advice="correct or remove it") from wrong
    row = row if isinstance(row, dict) else {}
    try:
        found = {**row, "problem": row.get("problem", row.get("question")), "answer": expected(row)}
    except ValueError as wrong:
        raise ProblemError(f"{where}: {wrong}", advice="correct or remove it") from wrong
    fields = [found.get(name) for name in columns]
    texts = [field for field in fields if isinstance(field, str) and field.strip()]
    if len(texts) != 2:
        raise ProblemError(
            f"{where} has no text `{columns[0]}` or no text `{columns[1]}`", advice="correct or remove it"
        )
    return texts[0], texts[1]
