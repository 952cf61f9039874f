"""Prompts and pairs in files: JSONL, also compressed, or Parquet; one a row, in a shape of `readers.chats`.

A prompt is `{"messages": [...]}` or `{"prompt": TEXT or [...]}`, with `"answer": TEXT` where one can be verified; a
conversation's last answer is left out. A pair is as in data sets of TRL: `{"prompt": ..., "chosen": ..., "rejected":
...}`, each a text or a list of messages, and what else is known of it under `"provenance"`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trainer.chat import Message
from trainer.dialogues.rows import Bad, objects
from trainer.errors import CorpusError, TrainerError
from trainer.preference.judges.port import Case
from trainer.readers import chats

T = TypeVar("T")


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


def _pair(row: Any, place: str) -> Pair:
    prompt, chosen, rejected = _read(chats.compared, row, place)
    about = row.get("provenance")
    known = dict(about) if isinstance(about, dict) else {}
    cut, other = (known.pop(name, False) is True for name in ("chosen_cut", "rejected_cut"))
    return Pair(prompt, chosen, rejected, cut, other, known)


def _case(row: Any, place: str) -> Case:
    return Case(_read(chats.asked, row, place), _read(chats.expected, row, place))


def _read(what: Callable[[Any], T], row: Any, place: str) -> T:
    try:
        return what(row)
    except ValueError as wrong:
        raise _bad(place, str(wrong)) from wrong


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        for found in objects(path):
            if isinstance(found, Bad):
                raise _bad(found.place, found.why)
            place, row = found
            try:
                json.dumps(
                    row, ensure_ascii=False, default=str
                ).encode()  # what is known of a pair is written down again
            except UnicodeEncodeError:
                raise _bad(place, "broken unicode: it holds half a surrogate pair") from None
            yield place, row
    except (CorpusError, OSError) as wrong:
        raise PreferenceError(f"{path} cannot be read: {wrong}", advice="check the path") from wrong


def _some(found: list[T], path: Path, what: str) -> list[T]:
    if not found:
        raise PreferenceError(f"{path} has no {what}", advice="give a file with some")
    return found


def _bad(place: str, why: str) -> PreferenceError:
    return PreferenceError(f"{place}: {why}", advice="correct or remove the row; docs/preference.md has the format")
