"""The port to larger models that speak: a question is a chat, and an answer is the assistant's next message.

`trainer.teachers` is the other port, to models whose predictions are distilled. A tutor is asked in words alone, so
its tokenizer does not matter, nor where it runs.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from trainer.chat import Message
from trainer.errors import TrainerError
from trainer.generation.params import SamplingParams
from trainer.options import Prices as Prices  # part of the port; options are read without torch

Finish = Literal["stop", "length", "filtered", "refused"]
"""Why an answer ended: it was over, it met max_tokens, the tutor's filter cut it, or it took no such question."""


class TutorError(TrainerError):
    """A tutor that cannot be asked: not there, not allowed, or it answers what nobody can read."""

    slug = "bad-tutor"


@dataclass(frozen=True)
class Question:
    """A chat that a tutor is to continue, `samples` times.

    The first sample is drawn with `sampling.seed`, the others with seeds derived from it
    (`trainer.generation.sampling.seed_of_sample`), so that tutors with equal weights answer alike.
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams
    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1 or not self.messages:
            raise ValueError("a question has at least one message and wants at least one answer")


@dataclass(frozen=True)
class Answer:
    """One answer: its text, its length in the tutor's tokens, why it ended, and the tokens of its prompt.

    A refused question has the reason in `why`, and no text.
    """

    text: str
    tokens: int
    finish: Finish
    prompt_tokens: int = 0
    why: str = ""


class Usage:
    """What was asked of a tutor in this process: counted from any thread. What the cache knew costs nothing again."""

    def __init__(self, prices: Prices | None = None) -> None:
        self.prices = prices or Prices()
        self.answers = self.cached = self.refused = self.retries = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._lock = threading.Lock()

    @property
    def cost(self) -> float:
        """By the declared prices."""
        return self.prices.of(self.prompt_tokens, self.completion_tokens)

    def count(self, answer: Answer, *, cached: bool = False) -> None:
        """One answer more."""
        with self._lock:
            self.answers += 1
            self.cached += cached
            self.refused += answer.finish == "refused"
            if not cached:
                self.prompt_tokens += answer.prompt_tokens
                self.completion_tokens += answer.tokens

    def retried(self) -> None:
        """One request that had to be sent again."""
        with self._lock:
            self.retries += 1


class Tutor(Protocol):
    """A larger model that speaks. `name` says which, for provenance: never where a secret is."""

    name: str
    usage: Usage

    def ask(
        self, questions: Sequence[Question], heard: Callable[[Usage], None] | None = None
    ) -> Iterator[tuple[int, list[Answer]]]:
        """(index of the question, its answers) as they come, in any order, each question once.

        `heard` is told what was used after each answer. A question that the tutor takes exception to (too long for its
        context, a forged special token) has refused answers; the others go on.

        Raises:
            TutorError: the tutor itself cannot be asked.
        """
