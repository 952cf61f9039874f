"""Conversations that are alike, and those that contradict each other."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from trainer.cleaners.duplicates import ExactDuplicates, NearDuplicates
from trainer.cleaners.words import Words
from trainer.dialogues import Conversation

_SYMBOL = re.compile(r"[^\w\s.,;:!?'\"]")


def text_of(conversation: Conversation) -> str:
    """All that was said."""
    return "\n".join(message.content for message in conversation.messages) + "\n" + _calls(conversation)


def words_of(conversation: Conversation) -> Words:
    """Its words, with symbols spelled out: 3 + 4 and 3 - 4 have the same words else."""
    return Words(_SYMBOL.sub(lambda found: f" symbol{ord(found[0])} ", text_of(conversation)))


def exact_duplicates(rows: Sequence[Conversation]) -> dict[int, str]:
    """By number, those whose words came before."""
    seen = ExactDuplicates()
    return {number: "the same words" for number, row in enumerate(rows) if seen.seen(words_of(row))}


def near_duplicates(rows: Sequence[Conversation], threshold: float) -> dict[int, str]:
    """By number, those at least so similar to one before them."""
    seen = NearDuplicates(threshold)
    return {number: "nearly the same words" for number, row in enumerate(rows) if seen.seen(words_of(row))}


def conflicts(rows: Sequence[Conversation]) -> list[dict[str, list[int]]]:
    """Prompts with different answers: for each, the numbers of the conversations by answer, the commonest first.

    Case and white space do not make prompts or answers different.
    """
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows):
        found[_plain(row.prompt)][_plain(row.answer)].append(number)
    several = [answers for answers in found.values() if len(answers) > 1]
    return [dict(sorted(answers.items(), key=lambda each: (-len(each[1]), each[1][0]))) for answers in several]


def contradicted(rows: Sequence[Conversation], what: Literal["list", "majority", "drop"]) -> dict[int, str]:
    """By number, those that go: all that conflict, or all but the answer that most of a prompt's conversations give."""
    gone: dict[int, str] = {}
    for answers in conflicts(rows) if what != "list" else []:
        counts = Counter({answer: len(numbers) for answer, numbers in answers.items()})
        best, most = counts.most_common(1)[0]
        kept = best if what == "majority" and 2 * most > counts.total() else None
        for answer, numbers in answers.items():
            if answer != kept:
                gone |= {number: f"one of {len(answers)} different answers to its prompt" for number in numbers}
    return gone


def _calls(conversation: Conversation) -> str:
    return "\n".join(call.model_dump_json() for message in conversation.messages for call in message.tool_calls)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
