"""Conversations in files: JSONL, also compressed, or Parquet; one conversation a row, in a shape of `readers.chats`.

    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "tools": [...]}

Other keys of a row (a source, an id, a score) are kept beside it and not read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.chat import Message
from trainer.errors import CorpusError
from trainer.readers import chats
from trainer.readers.lines import raw_lines

OnBad = Literal["refuse", "skip"]

_LONGEST = 4 << 20  # bytes of a row; a context of a million tokens has about as many
_ROWS = 256
_EXAMPLES = 3
_SHOWN = 120


@dataclass(frozen=True)
class Conversation:
    """A row: what was said, with which tools at hand, and the row as it was in its file.

    `taught` says of each message whether it is to be learnt; without it, all that the assistant says.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    row: dict[str, Any]
    place: str
    taught: tuple[bool, ...] = ()

    @property
    def prompt(self) -> str:
        """What is said before the first answer to learn, and the tools: equal for conversations that ask the same."""
        asked = [[message.role, message.content] for message in self.messages[: self._first]]
        return json.dumps([asked, self.tools], ensure_ascii=False, sort_keys=True)

    @property
    def answer(self) -> str:
        """All that follows the prompt."""
        rest = [message.model_dump(mode="json") for message in self.messages[self._first :]]
        if len(rest) == 1 and not rest[0]["tool_calls"]:
            return str(rest[0]["content"])
        return json.dumps(rest, ensure_ascii=False, sort_keys=True)

    @property
    def _first(self) -> int:
        taught = self.taught or [message.role == "assistant" for message in self.messages]
        return taught.index(True)

    @property
    def draw(self) -> float:
        """A hash of the prompt in [0, 1): those below a share are held out, and no prompt is on both sides."""
        digest = hashlib.sha256(b"held out\0" + self.prompt.encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class Bad:
    """A row that is no conversation: where, why, and how it begins."""

    place: str
    why: str
    begins: str = ""

    def error(self) -> CorpusError:
        """What to raise where bad rows are refused."""
        return CorpusError(f"{self.place}: {self.why}", advice="correct the row, or skip bad rows: on_bad=skip")


@dataclass
class Skipped:
    """Bad rows that were passed over: how many for each reason, the first few as examples."""

    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[Bad] = field(default_factory=list)

    @property
    def count(self) -> int:
        """In all."""
        return sum(self.reasons.values())

    def take(self, bad: Bad, on_bad: OnBad) -> None:
        """Count it, or raise what it is.

        Raises:
            CorpusError: bad rows are refused.
        """
        if on_bad == "refuse":
            raise bad.error()
        reason = bad.why.partition(":")[0]
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if self.reasons[reason] <= _EXAMPLES:
            self.examples.append(bad)


def conversations(paths: Iterable[Path], skipped: Skipped, on_bad: OnBad = "refuse") -> Iterator[Conversation]:
    """The conversations of files in their order; bad rows are refused, or counted in `skipped`.

    Raises:
        CorpusError: a file that is missing or cannot be read, or a bad row by its file and line.
    """
    for path in paths:
        if not path.is_file():
            raise CorpusError(f"{path}: there is no such file of conversations", advice="check the path")
        for found in objects(path):
            conversation = found if isinstance(found, Bad) else _conversation(*found)
            if isinstance(conversation, Bad):
                skipped.take(conversation, on_bad)
            else:
                yield conversation


def objects(path: Path) -> Iterator[tuple[str, Any] | Bad]:
    """(place, row) of everything in a file, and what is bad about a line that is none.

    Raises:
        CorpusError: it cannot be read.
        OSError: it cannot be opened.
    """
    return _parquet(path) if _is_parquet(path) else _jsonl(path)


def _jsonl(path: Path) -> Iterator[tuple[str, Any] | Bad]:
    parts: list[bytes] = []
    size, number = 0, 1
    for raw in raw_lines(path, str(path), _LONGEST):
        size += len(raw)
        if size <= _LONGEST:
            parts.append(raw)
        if raw.endswith(b"\n"):
            yield from _line(f"{path}, line {number}", parts, size)
            parts, size, number = [], 0, number + 1
    yield from _line(f"{path}, line {number}", parts, size)


def _line(place: str, parts: list[bytes], size: int) -> Iterator[tuple[str, Any] | Bad]:
    whole = b"".join(parts)
    begins = whole[:_SHOWN].decode("utf-8", "replace")
    if size > _LONGEST:
        yield _long(place, size, begins)
        return
    if not whole.strip():
        return
    try:
        yield place, json.loads(whole.decode("utf-8"))
    except UnicodeDecodeError as wrong:
        yield Bad(place, f"not UTF-8: byte 0x{whole[wrong.start]:02x} ({wrong.reason})", begins)
    except (ValueError, RecursionError) as wrong:
        yield Bad(place, f"not JSON: {wrong}", begins)


def _long(place: str, size: int, begins: str) -> Bad:
    return Bad(place, f"a row is longer than {_LONGEST >> 20} MiB: it has {size / 2**20:.1f}", begins)


def _is_parquet(path: Path) -> bool:
    """By its first bytes: what was uploaded has no name."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet(path: Path) -> Iterator[tuple[str, Any] | Bad]:
    try:
        with pq.ParquetFile(path) as table:
            number = 0
            for rows in table.iter_batches(batch_size=_ROWS):
                for row in rows.to_pylist():
                    number += 1
                    place, size = f"{path}, row {number}", _characters(row)
                    yield (place, _without_nulls(row)) if size <= _LONGEST else _long(place, size, "")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as wrong:
        raise CorpusError(f"{path} is not a readable Parquet file: {wrong}", advice="copy it again") from wrong


def _characters(value: Any) -> int:
    if isinstance(value, dict | list):
        return sum(map(_characters, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str | bytes) else 0


def _without_nulls(value: Any) -> Any:
    """A column has every row's keys; those that a row does not have are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _conversation(place: str, row: Any) -> Conversation | Bad:
    try:
        found = chats.chat(row)
    except ValueError as wrong:
        return Bad(place, str(wrong), repr(row)[:_SHOWN])
    return Conversation(found.messages, found.tools, row, place, found.taught)
