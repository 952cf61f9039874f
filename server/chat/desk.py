"""The desk between HTTP and the engine: how many may wait, whose events go where, and an end for all at the end."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from tokenizers import Tokenizer

from device_agent.contracts import Blame, FulcrumError
from trainer.chat import ChatTemplate
from trainer.generation import Completion, Engine, Event, Handle, SamplingParams


class Busy(FulcrumError):
    """As many answers are wanted as may wait."""

    blame, slug = Blame.INFRASTRUCTURE, "rate_limit_exceeded"


class Closing(FulcrumError):
    """The server is ending."""

    blame, slug = Blame.INFRASTRUCTURE, "shutting_down"


@dataclass(frozen=True)
class Served:
    """A model that is served."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate
    created: int
    """Seconds since the epoch."""


class Desk:
    """Takes requests to the engine and brings events back, for as many answers at once as `engine.slots` and `waiting`.

    The engine must be serving.
    """

    def __init__(self, engine: Engine, model: Served, waiting: int) -> None:
        self.engine, self.model = engine, model
        self.capacity = engine.slots + waiting
        self._pumps = ThreadPoolExecutor(self.capacity, thread_name_prefix="answer")
        self._lock = threading.RLock()  # a signal's handler may come while it is held
        self._open: dict[int, Handle] = {}
        self._taken = 0
        self._closing = False

    @property
    def unanswered(self) -> int:
        """Answers that are being written or wait."""
        return self._taken

    def submit(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, samples: int, loop: asyncio.AbstractEventLoop
    ) -> "Answers":
        """Ask the engine for `samples` answers to each prompt; blocks for as long as prompts are looked at.

        Raises:
            Busy, Closing: not now.
            TrainerError: what the engine refuses.
        """
        wanted = len(prompts) * samples
        self._take(wanted)
        handles: list[Handle] = []
        try:
            for prompt in prompts:
                alone = samples == 1  # a group derives its seeds, and one answer has the seed that was asked for
                handles += (
                    [self.engine.submit(prompt, params)] if alone else self.engine.submit_group(prompt, params, samples)
                )
        except Exception:
            self._give_back(wanted - len(handles))
            Answers(self, handles, loop).cancel()
            raise
        answers = Answers(self, handles, loop)
        if self._closing:
            answers.cancel()
        return answers

    def pump(self, handle: Handle, index: int, events: "Events", loop: asyncio.AbstractEventLoop) -> None:
        """Bring a handle's events to a queue of `loop`, in a thread of its own."""
        with self._lock:
            self._open[handle.id] = handle

        def bring() -> None:
            try:
                for event in handle:
                    _call(loop, events, (index, event))
            except Exception as wrong:  # the engine's own end, told to whoever asked
                _call(loop, events, (index, wrong))
            finally:
                with self._lock:
                    del self._open[handle.id]
                self._give_back(1)

        self._pumps.submit(bring)

    def close(self) -> None:
        """Take no more, and end what is unanswered; from any thread, more than once."""
        with self._lock:
            self._closing = True
            handles = list(self._open.values())
        for handle in handles:
            handle.cancel()

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def _take(self, answers: int) -> None:
        with self._lock:
            if self._closing:
                raise Closing("the server is shutting down", advice="Ask again later.")
            if self._taken + answers > self.capacity:
                raise Busy(
                    f"{self._taken} answers of at most {self.capacity} are wanted already, and this asks for {answers}",
                    advice="Ask again later, or start the server with a longer --queue.",
                )
            self._taken += answers

    def _give_back(self, answers: int) -> None:
        with self._lock:
            self._taken -= answers


Events = asyncio.Queue[tuple[int, Event | Exception]]


class Answers:
    """The answers to one request, in the order of prompts and samples."""

    def __init__(self, desk: Desk, handles: list[Handle], loop: asyncio.AbstractEventLoop) -> None:
        self._handles = handles
        self._events: Events = asyncio.Queue()
        for index, handle in enumerate(handles):
            desk.pump(handle, index, self._events, loop)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(index of the answer, event) as they come, of all answers. Leaving early cancels what is unanswered.

        Raises:
            Closing: the server ended first.
            Exception: what ended the engine.
        """
        left = len(self._handles)
        try:
            while left:
                index, event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                if event.finish == "cancelled":
                    raise Closing("the server is shutting down", advice="Ask again later.")
                left -= event.finish is not None
                yield index, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End what is unanswered."""
        for handle in self._handles:
            if handle.completion.finish is None:
                handle.cancel()

    @property
    def completions(self) -> list[Completion]:
        """What there is of every answer."""
        return [handle.completion for handle in self._handles]


def any_seed() -> int:
    """For a request that names none."""
    return secrets.randbits(62)


def _call(loop: asyncio.AbstractEventLoop, events: Events, item: tuple[int, Event | Exception]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody listens any more
        loop.call_soon_threadsafe(events.put_nowait, item)
