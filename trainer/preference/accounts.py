"""What is asked of the tutors at a table: counted, told while it goes on, and stopped when somebody wants that."""

import time
from collections.abc import Callable, Mapping, Sequence

from trainer.errors import Interrupted
from trainer.tutors.port import Tutor, Usage

_SECONDS = 1.0  # between two reports of one long asking
_COUNTED = ("answers", "cached", "tokens", "cost")


class Accounts:
    """Counts by seat (judge, examiner, tutor), in this process. Whoever asks calls `heard` after each answer."""

    def __init__(self, report: Callable[[dict[str, float]], None], should_stop: Callable[[], bool]) -> None:
        self._report, self._should_stop = report, should_stop
        self._usages: dict[str, Usage] = {}
        self._told = time.monotonic()

    def seated(self, seat: str, tutor: Tutor) -> Tutor:
        """`tutor`, whose answers are counted from now on."""
        self._usages[seat] = tutor.usage
        return tutor

    def heard(self, _: object = None) -> None:
        """An answer came, or time passed.

        Raises:
            Interrupted: somebody wants to stop.
        """
        self._tell({})

    def answered(self, done: int, submitted: int) -> None:
        """The model itself answered so many of its prompts' answers; raises as `heard`."""
        self._tell({"answered": done / submitted})

    def figures(self) -> dict[str, float]:
        """By seat: answers, those that a cache knew, tokens of prompts and answers, and their cost.

        What was cached has cost nothing again, and its tokens are not counted.
        """
        found: dict[str, float] = {}
        for seat, usage in self._usages.items():
            values = (usage.answers, usage.cached, usage.prompt_tokens + usage.completion_tokens, usage.cost)
            found |= {f"{seat}/{name}": float(value) for name, value in zip(_COUNTED, values, strict=True)}
        return found

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """What `figures` have grown by."""
        return {name: value - before.get(name, 0.0) for name, value in self.figures().items()}

    def _tell(self, more: dict[str, float]) -> None:
        if self._should_stop():
            raise Interrupted("stopped while answers were asked for or judged", advice="start it again to carry on")
        if time.monotonic() - self._told >= _SECONDS:
            self._told = time.monotonic()
            self._report(self.figures() | more)


def summed(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The counts among the figures of several parts, together."""
    found: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            if name.partition("/")[2] in _COUNTED:
                found[name] = found.get(name, 0.0) + value
    return found
