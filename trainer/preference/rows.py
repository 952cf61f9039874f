"""Prompts and pairs in files: JSONL, one object a line.

A prompt is `{"messages": [...]}` or `{"prompt": TEXT or [...]}`, with `"answer": TEXT` where one can be verified; a
conversation's last answer is left out. A pair is as in data sets of TRL: `{"prompt": ..., "chosen": ..., "rejected":
...}`, each a text or a list of messages, and what else is known of it under `"provenance"`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from trainer.chat import Message
from trainer.errors import TrainerError
from trainer.preference.judges.port import Case

T = TypeVar("T")

_LONGEST = 4 << 20  # bytes of a line
_MESSAGES = TypeAdapter(tuple[Message, ...])


class PreferenceError(TrainerError):
    """Prompts or pairs that cannot be used: missing, malformed, too long, or none that are worth a training."""

    slug = "bad-preferences"


@dataclass(frozen=True)
class Pair:
    """Two answers to one chat. One that was `cut` met its limit of tokens: it is not taught to end there."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_cut: bool = False
    rejected_cut: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def expected(self) -> str | None:
        """The verifiable answer, where one is known."""
        found = self.provenance.get("expected")
        return found if isinstance(found, str) else None


def read_cases(path: Path) -> list[Case]:
    """The prompts of a file, each once, in their order.

    Raises:
        PreferenceError: missing, without prompts, or a malformed line by its number.
    """
    cases = {case.key: case for case in (_case(row, place) for place, row in _rows(path))}
    return _some(list(cases.values()), path, "prompts")


def cases_of(pairs: Sequence[Pair]) -> list[Case]:
    """The prompts of pairs, each once, with what their provenance says was expected."""
    found = (Case(pair.prompt, pair.expected) for pair in pairs)
    return list({case.key: case for case in found}.values())


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        PreferenceError: missing, without pairs, or a malformed line by its number.
    """
    return _some([_pair(row, place) for place, row in _rows(path)], path, "pairs")


def written(pairs: Sequence[Pair]) -> str:
    """Pairs as a file of them has it."""
    return "".join(json.dumps(_row(pair), ensure_ascii=False) + "\n" for pair in pairs)


def _row(pair: Pair) -> dict[str, Any]:
    return {
        "prompt": [message.model_dump() for message in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "provenance": {"chosen_cut": pair.chosen_cut, "rejected_cut": pair.rejected_cut, **pair.provenance},
    }


def _pair(row: dict[str, Any], place: str) -> Pair:
    chosen, rejected = (_answer(row, name, place) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise _bad(place, "the chosen and the rejected answer are the same")
    about = row.get("provenance")
    known = dict(about) if isinstance(about, dict) else {}
    cut, other = (known.pop(name, False) is True for name in ("chosen_cut", "rejected_cut"))
    return Pair(_messages(row.get("prompt"), place), chosen, rejected, cut, other, known)


def _case(row: dict[str, Any], place: str) -> Case:
    expected = row.get("answer")
    if expected is not None and not isinstance(expected, str):
        raise _bad(place, "the answer is no text")
    return Case(_messages(row.get("messages", row.get("prompt")), place), expected)


def _messages(given: object, place: str) -> tuple[Message, ...]:
    """A prompt, which ends with what is to be answered."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    try:
        found = _MESSAGES.validate_python(given)
    except ValidationError as wrong:
        raise _bad(place, f"no prompt: {wrong.errors()[0]['msg']}") from wrong
    if found and found[-1].role == "assistant":
        found = found[:-1]
    if not any(message.content.strip() for message in found if message.role == "user"):
        raise _bad(place, "the prompt has no message of a user")
    return found


def _answer(row: dict[str, Any], name: str, place: str) -> str:
    given = row.get(name)
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        given = given[0].get("content") if given[0].get("role") == "assistant" else None
    if not isinstance(given, str):
        raise _bad(place, f"`{name}` is neither a text nor one message of the assistant")
    return given


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST + 1), b""), start=1):
                place = f"{path}, line {number}"
                if len(line) > _LONGEST:
                    raise _bad(place, f"it is longer than {_LONGEST >> 20} MiB")
                if line.strip():
                    yield place, _object(line, place)
    except OSError as wrong:
        raise PreferenceError(f"{path} cannot be read: {wrong}", advice="check the path") from wrong


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError) as wrong:
        raise _bad(place, f"no JSON of UTF-8 text: {wrong}") from wrong
    if not isinstance(found, dict):
        raise _bad(place, "no JSON object")
    return found


def _some(found: list[T], path: Path, what: str) -> list[T]:
    if not found:
        raise PreferenceError(f"{path} has no {what}", advice="give a file with some")
    return found


def _bad(place: str, why: str) -> PreferenceError:
    return PreferenceError(f"{place}: {why}", advice="correct or remove the line; docs/preference.md has the format")
