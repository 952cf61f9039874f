"""Heuristics for answers: each is a rule of thumb with a name, and the score is the share of them that hold.

They find what generated and scraped chats are known to be spoiled by; none of them knows whether an answer is right.
"""

import re
import unicodedata
from collections.abc import Callable

from trainer.cleaners.words import Words
from trainer.dialogues import Conversation

_GRAM, _REPEATED = 5, 0.3
_MARKS = re.compile(r"<\|\w+\|>|\[/?INST\]|<</?SYS>>|^#{2,} ?(Human|Assistant|User|Instruction|Response)\b", re.M)
_SELF = re.compile(
    r"\bas an? (ai|artificial intelligence|large language|language) (language )?(model|assistant)\b", re.I
)


def _repeats(_: str, answer: str) -> bool:
    grams = Words(answer).grams(_GRAM)
    return len(grams) > 0 and 1 - len(set(grams.tolist())) / len(grams) > _REPEATED


def _breaks_off(_: str, answer: str) -> bool:
    return answer.rstrip().endswith((",", "...", "\u2026", "(", "[", "{")) or answer.count("```") % 2 == 1


def _is_garbled(_: str, answer: str) -> bool:
    return any(
        letter == "\ufffd" or (unicodedata.category(letter) == "Cc" and letter not in "\n\t\r") for letter in answer
    )


RULES: dict[str, Callable[[str, str], bool]] = {
    "repeats itself": _repeats,
    "breaks off": _breaks_off,
    "garbled characters": _is_garbled,
    "a template's marks as text": lambda _, answer: bool(_MARKS.search(answer)),
    "speaks of itself as a model": lambda _, answer: bool(_SELF.search(answer)),
    "echoes the question": lambda asked, answer: " ".join(asked.split()) == " ".join(answer.split()),
}
"""By name, whether (what was said before, an answer) breaks the rule."""


def broken(conversation: Conversation) -> list[str]:
    """The rules that some answer breaks."""
    pairs = []
    before = ""
    for message in conversation.messages:
        if message.role == "assistant" and message.content:
            pairs.append((before, message.content))
        before = message.content
    return [name for name, breaks in RULES.items() if any(breaks(*pair) for pair in pairs)]


def score(rules: list[str]) -> float:
    """The share of rules that hold, of those broken."""
    return 1 - len(rules) / len(RULES)
