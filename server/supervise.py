"""Keeps a worker process beside the API: started again when it dies, gone when the API is."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from server.settings import Settings

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_GOODBYE_SECONDS = 10

log = logging.getLogger("fulcrum.server")


@contextmanager
def worker_beside(settings: Settings) -> Iterator[None]:
    """Run a worker while the block runs. Its standard input is ours to close: that is how it hears of our end."""
    over = threading.Event()
    current: list[subprocess.Popen[bytes]] = []

    def keep_alive() -> None:
        pause = _FIRST_PAUSE
        while not over.is_set():
            process = subprocess.Popen(
                [sys.executable, "-m", "server.worker"],
                stdin=subprocess.PIPE,
                env=os.environ | _environment(settings),
                start_new_session=True,  # Ctrl-C reaches us alone; we pass it on in order
            )
            current[:] = [process]
            status = process.wait()
            if not over.is_set():
                log.error("the worker ended with status %s; starting it again in %.1f s", status, pause)
                over.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    thread = threading.Thread(target=keep_alive, name="worker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        for process in current:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_GOODBYE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _environment(settings: Settings) -> dict[str, str]:
    """The settings as the worker reads them, whichever way we were given them."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    plain = {name: v.get_secret_value() if isinstance(v, SecretStr) else str(v) for name, v in values.items() if v}
    return {f"FULCRUM_{name.upper()}": value for name, value in plain.items()}
