"""How fast an endpoint may be asked: so many requests and tokens within any minute, and pauses that it asked for."""

import asyncio
import threading
import time
from collections import deque

_MINUTE = 60.0


class Clock:
    """The time of waits, so that a test's hour is over at once."""

    def now(self) -> float:
        """Seconds from any beginning."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Pace:
    """A window that slides over the last minute; shared by all who ask one endpoint, from any thread."""

    def __init__(self, requests: int | None, tokens: int | None, clock: Clock) -> None:
        """Limits a minute; None for none."""
        self._requests, self._tokens, self._clock = requests, tokens, clock
        self._recent: deque[list[float]] = deque()  # [when, tokens]
        self._not_before = float("-inf")
        self._lock = threading.Lock()

    async def enter(self, tokens: int) -> list[float]:
        """Wait until a request of so many tokens is allowed; its place in the window, for `correct`."""
        while True:
            with self._lock:
                wait = self._wait(tokens)
                if wait <= 0:
                    place = [self._clock.now(), float(tokens)]
                    self._recent.append(place)
                    return place
            await self._clock.sleep(wait)

    def correct(self, place: list[float], tokens: int) -> None:
        """What a request really took, when it is known."""
        with self._lock:
            place[1] = float(tokens)

    def hold(self, seconds: float) -> None:
        """Let nobody in for so long: the endpoint asked for it."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock.now() + seconds)

    def _wait(self, tokens: int) -> float:
        now = self._clock.now()
        while self._recent and self._recent[0][0] <= now - _MINUTE:
            self._recent.popleft()
        if now < self._not_before:
            return self._not_before - now
        full = self._requests is not None and len(self._recent) >= self._requests
        # A request larger than the limit is let in alone: it would wait for ever.
        used = sum(place[1] for place in self._recent)
        full = full or (self._tokens is not None and bool(self._recent) and used + tokens > self._tokens)
        return self._recent[0][0] + _MINUTE - now if full else 0.0
