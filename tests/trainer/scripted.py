"""A tutor for tests, and what it is asked as a judge."""

import json
from collections.abc import Callable, Iterator, Sequence

from trainer.tutors.port import Answer, Question, Usage


class Scripted:
    """A tutor that says what a function makes of a question."""

    name = "scripted"

    def __init__(self, say: Callable[[Question, int], str]) -> None:
        self.usage, self._say = Usage(), say

    def ask(
        self, questions: Sequence[Question], heard: Callable[[Usage], None] | None = None
    ) -> Iterator[tuple[int, list[Answer]]]:
        for index in reversed(range(len(questions))):
            said = [self._say(questions[index], sample) for sample in range(questions[index].samples)]
            yield index, [Answer(text, len(text), "stop") for text in said]


def ticket_of(question: Question) -> str:
    return question.messages[0].content.split('"ticket": "')[1][:16]


def shown(question: Question) -> dict[str, str]:
    found: dict[str, str] = json.loads(question.messages[1].content)
    return found
