"""Conversations in files: JSONL, also compressed, or Parquet; one conversation a row.

    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "tools": [...]}

Roles are system, user, assistant and tool. Calls of tools are written as OpenAI does, or plainly as name and arguments.
Other keys of a row (a source, an id, a score) are kept beside it and not read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from trainer.chat import Message, Role, ToolCall
from trainer.errors import CorpusError
from trainer.readers.lines import raw_lines

OnBad = Literal["refuse", "skip"]

_LONGEST = 4 << 20  # bytes of a row; a context of a million tokens has about as many
_ROWS = 256
_EXAMPLES = 3
_SHOWN = 120
_ROLES = get_args(Role)
_KEYS = {"role", "content", "tool_calls", "tool_call_id", "name"}  # the last two repeat what the order says


@dataclass(frozen=True)
class Conversation:
    """A row: what was said, with which tools at hand, and the row as it was in its file."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    row: dict[str, Any]
    place: str

    @property
    def prompt(self) -> str:
        """What is said before the first answer, and the tools: equal for conversations that ask the same."""
        first = next(number for number, message in enumerate(self.messages) if message.role == "assistant")
        asked = [[message.role, message.content] for message in self.messages[:first]]
        return json.dumps([asked, self.tools], ensure_ascii=False, sort_keys=True)

    @property
    def answer(self) -> str:
        """All that follows the prompt."""
        first = next(number for number, message in enumerate(self.messages) if message.role == "assistant")
        rest = [message.model_dump(mode="json") for message in self.messages[first:]]
        if len(rest) == 1 and not rest[0]["tool_calls"]:
            return str(rest[0]["content"])
        return json.dumps(rest, ensure_ascii=False, sort_keys=True)

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
        for found in _parquet(path) if _is_parquet(path) else _jsonl(path):
            conversation = found if isinstance(found, Bad) else _conversation(*found)
            if isinstance(conversation, Bad):
                skipped.take(conversation, on_bad)
            else:
                yield conversation


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
        yield Bad(place, f"a row is longer than {_LONGEST >> 20} MiB: it has {size / 2**20:.1f}", begins)
        return
    if not whole.strip():
        return
    try:
        yield place, json.loads(whole.decode("utf-8"))
    except UnicodeDecodeError as wrong:
        yield Bad(place, f"not UTF-8: byte 0x{whole[wrong.start]:02x} ({wrong.reason})", begins)
    except (ValueError, RecursionError) as wrong:
        yield Bad(place, f"not JSON: {wrong}", begins)


def _is_parquet(path: Path) -> bool:
    """By its first bytes: what was uploaded has no name."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with pq.ParquetFile(path) as table:
            number = 0
            for rows in table.iter_batches(batch_size=_ROWS):
                for row in rows.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", _without_nulls(row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as wrong:
        raise CorpusError(f"{path} is not a readable Parquet file: {wrong}", advice="copy it again") from wrong


def _without_nulls(value: Any) -> Any:
    """A column has every row's keys; those that a row does not have are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _conversation(place: str, row: Any) -> Conversation | Bad:
    try:
        return Conversation(_messages(row), _tools(row), row, place)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        why = f"malformed message: {'.'.join(map(str, first['loc']))} {first['msg']}"
    except (ValueError, RecursionError) as wrong:
        why = str(wrong)
    return Bad(place, why, repr(row)[:_SHOWN])


def _messages(row: Any) -> tuple[Message, ...]:
    if not isinstance(row, dict):
        raise ValueError(f"no object: it is {type(row).__name__}")
    found = row.get("messages")
    if not isinstance(found, list):
        raise ValueError(f"no list under 'messages': there is {', '.join(map(str, row)) or 'nothing'}")
    if not found:
        raise ValueError("no messages: the list is empty")
    messages = tuple(_message(number, each) for number, each in enumerate(found, start=1))
    if all(message.role != "assistant" for message in messages):
        raise ValueError("no answer: no message is the assistant's")
    return messages


def _message(number: int, found: Any) -> Message:
    if not isinstance(found, dict):
        raise ValueError(f"malformed message: message {number} is no object")
    if found.get("role") not in _ROLES:
        raise ValueError(
            f"unknown role: message {number} is of {found.get('role')!r:.60}, roles are {', '.join(_ROLES)}"
        )
    if unknown := set(found) - _KEYS:
        raise ValueError(f"unknown key: message {number} has {', '.join(sorted(unknown))!r:.60}")
    calls = tuple(_call(number, call) for call in found.get("tool_calls") or ())
    content = found.get("content", "") if not calls else found.get("content") or ""
    if not isinstance(content, str):
        raise ValueError(f"no text: the content of message {number} is {type(content).__name__}")
    if not content.strip() and not calls and found["role"] != "tool":
        raise ValueError(f"empty message: message {number} says nothing")
    return Message(role=found["role"], content=_text(number, content), tool_calls=calls)


def _call(number: int, found: Any) -> ToolCall:
    """OpenAI's {"function": {"name": ..., "arguments": JSON text}}, or name and arguments alone."""
    called = found.get("function", found) if isinstance(found, dict) else None
    arguments = called.get("arguments", {}) if isinstance(called, dict) else None
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        arguments = None
    if not isinstance(called, dict) or not isinstance(arguments, dict) or not isinstance(called.get("name"), str):
        raise ValueError(f"malformed call: message {number} calls a tool without a name or an object of arguments")
    return ToolCall(name=_text(number, called["name"]), arguments=_json(number, arguments))


def _tools(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    found = row.get("tools") or ()
    if isinstance(found, str):  # Parquet has no place for objects of any shape
        found = json.loads(found)
    if not isinstance(found, list | tuple) or not all(isinstance(tool, dict) for tool in found):
        raise ValueError("malformed tools: they are no list of objects")
    return tuple(_json(0, tool) for tool in found)


def _json(number: int, value: dict[str, Any]) -> dict[str, Any]:
    _text(number, json.dumps(value, ensure_ascii=False))
    return value


def _text(number: int, text: str) -> str:
    """JSON can spell half a surrogate pair, which is no text: what was meant is lost."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"broken unicode: message {number} holds half a surrogate pair") from None
    return text
