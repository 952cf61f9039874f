"""The outbox: an outcome is on disk before it is sent, and stays until the server has taken or refused it."""

import sqlite3
import threading
from pathlib import Path

from device_agent.contracts import LeaseResult

_BUSY_SECONDS = 60.0


class Outbox:
    """Safe to share between threads, and between the processes of one agent: each opens it for itself."""

    def __init__(self, path: Path) -> None:
        """Open or make the journal."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY_SECONDS)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS results "
            "(number INTEGER PRIMARY KEY, job_id TEXT, epoch INTEGER, body TEXT, UNIQUE (job_id, epoch))"
        )

    def put(self, job_id: str, result: LeaseResult) -> None:
        """Journal an outcome; a second one under the same lease does not replace the first."""
        with self._lock:
            self._database.execute(
                "INSERT OR IGNORE INTO results (job_id, epoch, body) VALUES (?, ?, ?)",
                (job_id, result.epoch, result.model_dump_json()),
            )

    def pending(self) -> list[tuple[int, str, LeaseResult]]:
        """(number, job, outcome), oldest first."""
        with self._lock:
            rows = self._database.execute("SELECT number, job_id, body FROM results ORDER BY number").fetchall()
        return [(number, job_id, LeaseResult.model_validate_json(body)) for number, job_id, body in rows]

    def replace(self, number: int, result: LeaseResult) -> None:
        """Put another outcome in the place of one that the server cannot take."""
        with self._lock:
            self._database.execute("UPDATE results SET body = ? WHERE number = ?", (result.model_dump_json(), number))

    def drop(self, number: int) -> None:
        """The server has spoken."""
        with self._lock:
            self._database.execute("DELETE FROM results WHERE number = ?", (number,))

    def close(self) -> None:
        """Close the journal."""
        self._database.close()
