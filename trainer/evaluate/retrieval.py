"""Retrieval on the level of tokens: needles in a haystack of real text, and key-value recall.

A needle is a key, some random tokens, followed by its value, some others. At the end of the window keys are told
again, each to be followed by its value. No word is understood, so a small model can do it: what is tested is whether a
token far away is found and read (as in RULER's synthetic tasks, arXiv 2404.06654, section 3). A tiny model learns it
in minutes where keys and values are single tokens of small sets of their own (as in MQAR, arXiv 2312.04927, section 3).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import CorpusError
from trainer.evaluate.haystack import Text
from trainer.linear_cross_entropy import IGNORED

Kind = Literal["needle", "multi_needle", "key_value"]
_MANY, _ASKED = 8, 16


class Needle(NamedTuple):
    """How many tokens key and value have, and which: of all but the one that begins a document, where not given."""

    key: int = 2
    value: int = 2
    keys: range | None = None
    values: range | None = None

    @property
    def size(self) -> int:
        """Tokens of both."""
        return self.key + self.value

    def different(self, vocabulary: int) -> int:
        """How many keys there are."""
        return int((vocabulary - 1 if self.keys is None else len(self.keys)) ** self.key)


class Task(NamedTuple):
    """How many needles a window has, for how many of them it is asked, and what they are made of."""

    needles: int
    asked: int
    needle: Needle = Needle()


@dataclass(frozen=True)
class Episodes:
    """Windows of N episodes with their questions.

    Attributes:
        inputs: [N, T] int64.
        targets: [N, T], `IGNORED` but where a value is asked for.
        places: [N, asked] where the needle that is asked for begins.
        answers: [N, asked] where the first token of its value is to be said: an index of `targets`.
        value: tokens that each value has.
    """

    inputs: Tensor
    targets: Tensor
    places: Tensor
    answers: Tensor
    value: int


def task(kind: Kind, length: int) -> Task:
    """needle: one; multi_needle: eight, all asked for; key_value: nothing but pairs, sixteen asked for.

    Raises:
        CorpusError: the length has no room for it.
    """
    match kind:
        case "needle":
            chosen = Task(1, 1)
        case "multi_needle":
            chosen = Task(_MANY, _MANY)
        case "key_value":
            pairs = (length + 1) // Needle().size - _ASKED
            chosen = Task(pairs, min(_ASKED, pairs))
    if _room(length, chosen) < chosen.needle.size or chosen.asked < 1:
        raise CorpusError(f"{length} tokens have no room for {kind}", advice="evaluate at a longer length")
    return chosen


def episodes(text: Text, asked: Task, *, count: int, length: int, seed: int) -> Episodes:
    """`count` episodes of `length` tokens, a function of the arguments; needles lie at every depth evenly."""
    windows, value = text.windows(count, length + 1).clone(), asked.needle.value
    places = torch.zeros(count, asked.asked, dtype=torch.int64)
    answers = torch.zeros_like(places)
    targets = torch.full((count, length), IGNORED, dtype=torch.int64)
    for index, window in enumerate(windows):
        random = np.random.Generator(np.random.Philox(key=[seed, index]))
        phase = (index + random.random()) / count
        places[index], answers[index] = _hide(window, asked, random, phase, len(text.token_bytes), text.end_of_text)
        for answer in answers[index].tolist():
            targets[index, answer : answer + value] = window[answer + 1 : answer + 1 + value]
    return Episodes(windows[:, :-1].contiguous(), targets, places, answers, value)


def _hide(
    window: Tensor, asked: Task, random: np.random.Generator, phase: float, vocabulary: int, end: int
) -> tuple[Tensor, Tensor]:
    """Write needles and questions into `window` [T+1]; (where needles asked for are, where answers are to be said)."""
    length, size = len(window) - 1, asked.needle.size
    room = _room(length, asked)
    spare = room - size + 1
    starts = torch.arange(asked.needles) * room + torch.from_numpy(
        ((phase + random.random(asked.needles) / asked.needles) % 1.0 * spare).astype(np.int64)
    )
    pairs = torch.from_numpy(_pairs(asked, random, vocabulary, end))
    window[starts[:, None] + torch.arange(size)] = pairs
    stride = asked.needles // asked.asked
    chosen = torch.arange(asked.asked) * stride + torch.from_numpy(random.integers(0, stride, asked.asked))
    chosen = chosen[torch.from_numpy(random.permutation(asked.asked))]
    questions = length + 1 - asked.asked * size + torch.arange(asked.asked) * size
    window[questions[:, None] + torch.arange(size)] = pairs[chosen]
    return starts[chosen], questions + asked.needle.key - 1


def _pairs(asked: Task, random: np.random.Generator, vocabulary: int, end: int) -> NDArray[np.int64]:
    """[needles, key + value] random tokens; no two keys are alike."""
    needle, all_but_end = asked.needle, np.delete(np.arange(vocabulary), end)
    keys = all_but_end if needle.keys is None else np.array(needle.keys)
    values = all_but_end if needle.values is None else np.array(needle.values)
    drawn = random.choice(len(keys) ** needle.key, size=asked.needles, replace=False, shuffle=True)
    parts = [keys[drawn // len(keys) ** place % len(keys)] for place in range(needle.key)]
    parts += list(random.choice(values, (needle.value, asked.needles)))
    return np.stack(parts, axis=1).astype(np.int64)


def _room(length: int, asked: Task) -> int:
    """Tokens that each needle has for itself and the text around it."""
    return (length + 1 - asked.asked * asked.needle.size) // max(1, asked.needles)
