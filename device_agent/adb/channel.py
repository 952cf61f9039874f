"""What every way to a phone offers: channels, which open services, which are streams of bytes."""

from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

from device_agent.adb.errors import PhoneUnreachable

Data = bytes | bytearray | memoryview


class Stream(ABC):
    """One service of the phone. All on it ends by `until` (time.monotonic seconds) or raises DeadlineExceeded."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._pieces: deque[memoryview] = deque()
        self._held = 0
        self._ended = False

    @abstractmethod
    def _fetch(self) -> None:
        """Wait for the phone's next word: `_arrived` is called with it, or `_ended` becomes true."""

    @abstractmethod
    def write(self, data: Data) -> None:
        """Send at most `Channel.max_payload` bytes. They may be under way on return, but not in `data` any more."""

    @abstractmethod
    def close(self) -> None:
        """End the stream; the phone ends what it ran for it."""

    def _arrived(self, data: Data) -> None:
        if data:
            self._pieces.append(memoryview(data))
            self._held += len(data)

    @property
    def answered(self) -> bool:
        """Whether the phone has said something that was not read yet, or hung up."""
        return self._held > 0 or self._ended

    def exhausted(self) -> bool:
        """Wait for the next byte; whether there is none, because the stream ended."""
        while not self._held and not self._ended:
            self._fetch()
        return not self._held

    def read_exactly(self, length: int) -> memoryview:
        """`length` bytes; PhoneUnreachable when the stream ends before."""
        while self._held < length and not self._ended:
            self._fetch()
        if self._held < length:
            raise PhoneUnreachable("The phone ended a transfer early.", advice="Try again.")
        self._held -= length
        parts = []
        while length:
            piece = self._pieces.popleft()
            if len(piece) > length:
                self._pieces.appendleft(piece[length:])
                piece = piece[:length]
            length -= len(piece)
            parts.append(piece)
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


class Channel(Protocol):
    """A way to one phone. After a failure it is closed for good, for what follows on a broken stream is noise."""

    max_payload: int

    @property
    def closed(self) -> bool:
        """Whether it is gone."""

    def open(self, service: bytes, until: float) -> Stream:
        """Start a service such as b"sync:", whose stream has to end by `until` (time.monotonic seconds)."""

    def close(self) -> None:
        """Drop everything, from any thread; the phone ends what it ran for us."""
