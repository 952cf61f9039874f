"""Requests under way while their caller does something else."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress


class Asking:
    """Requests under way in a thread of their own, which an end cancels at once."""

    def __init__(self, work: Coroutine[None, None, None], failed: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name="tutor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except BaseExceptionGroup as several:
            self._failed(several.exceptions[0])
        except asyncio.CancelledError:
            pass
        except BaseException as wrong:  # whoever waits must hear of it
            self._failed(wrong)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def end(self) -> None:
        """Cancel what is under way, and wait for the thread."""
        with suppress(RuntimeError):  # the loop is closed: all is done
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
