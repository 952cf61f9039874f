"""Discovery, again and again, in a thread of its own: USB, adb and mDNS may each take their time."""

import logging
import threading
from collections.abc import Callable, Sequence

from device_agent.adb.discover import Found
from device_agent.contracts import FulcrumError

_LOG = logging.getLogger(__name__)

Discover = Callable[[], Sequence[Found]]


class Finder:
    """`take` gives the newest round, once; `wake` is called when there is one."""

    def __init__(self, discover: Discover, seconds: float, wake: Callable[[], None]) -> None:
        self._discover, self._seconds, self._wake = discover, seconds, wake
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._found: Sequence[Found] | None = None
        self._thread = threading.Thread(target=self._run, name="discovery", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the present round, which nobody waits for."""
        self._stop.set()

    def take(self) -> Sequence[Found] | None:
        """What the last round found; None when it was taken already."""
        with self._lock:
            found, self._found = self._found, None
            return found

    def _run(self) -> None:
        said = ""
        while not self._stop.is_set():
            try:
                found = self._discover()
            except FulcrumError as error:
                if error.message != said:
                    _LOG.warning("discovery: %s %s", error.message, error.advice)
                said = error.message
            else:
                said = ""
                with self._lock:
                    self._found = found
                self._wake()
            self._stop.wait(self._seconds)
