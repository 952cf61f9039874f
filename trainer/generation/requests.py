"""What a caller holds of a request: events as they come, and the whole answer in the end."""

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length", "cancelled"]
"""Why an answer ended: a stop token or text, max_tokens or the end of the context, or the caller."""


@dataclass(frozen=True)
class Event:
    """One step of one answer. The last one says why the answer ended, and may bring no token.

    `text` is what became readable with this token: never half a character, and nothing that may yet turn out to be
    the beginning of a stop text. `logprob` is the model's (nats); `sampler_logprob` that of the distribution that was
    sampled, after penalties, temperature and cuts (0 when greedy). `top` holds (token, logprob), likeliest first.
    """

    request: int
    token: int | None
    logprob: float = 0.0
    sampler_logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    text: str = ""
    finish: Finish | None = None


@dataclass
class Completion:
    """An answer. A token that ended it is not part of it, nor is a stop text; the tokens that spell one are."""

    prompt_tokens: int
    cached_tokens: int = 0
    """Of the prompt, how many were not computed because the prefix cache knew them."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampler_logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
    ended_by: tuple[int, float] | None = None
    """The stop token that ended it, and its log-probability under the sampler."""


class Handle:
    """A submitted request: iterate over it for events, ask it for the result, or cancel it."""

    def __init__(self, request: int, prompt_tokens: int, drive: Callable[[], bool], cancel: Callable[[], None]) -> None:
        self.id = request
        self.completion = Completion(prompt_tokens)
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._over = False
        self._failure: BaseException | None = None
        self._drive = drive  # steps the engine; False when a thread does that and waiting is all there is to do
        self.cancel = cancel
        """End the answer as soon as the engine's step allows; what is there stays in `completion`."""

    def tell(self, event: Event | BaseException) -> None:
        """The engine's side: add an event, or the error that ended the request."""
        if isinstance(event, Event):
            self._record(event)
        self._events.put(event)

    def __iter__(self) -> Iterator[Event]:
        """Events that were not yet taken, up to the last one; raises what ended the engine."""
        while not self._over:
            event = self._next()
            if isinstance(event, BaseException):
                self._over, self._failure = True, event
                raise event
            self._over = event.finish is not None
            yield event

    def result(self) -> Completion:
        """The whole answer; takes the events that are left, and raises what ended the engine."""
        for _ in self:
            pass
        if self._failure is not None:
            raise self._failure
        return self.completion

    def _next(self) -> Event | BaseException:
        while True:
            try:
                return self._events.get_nowait()
            except queue.Empty:
                if not self._drive():
                    return self._events.get()

    def _record(self, event: Event) -> None:
        answer = self.completion
        if event.token is not None:
            answer.tokens.append(event.token)
            answer.logprobs.append(event.logprob)
            answer.sampler_logprobs.append(event.sampler_logprob)
        answer.text += event.text
        answer.finish = event.finish
