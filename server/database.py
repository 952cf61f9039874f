"""Engines and transactions, the same on SQLite and PostgreSQL.

There is one writer at a time on either: SQLite's `BEGIN IMMEDIATE`, PostgreSQL's advisory lock. Write transactions
last milliseconds; in return a decision never rests on a stale snapshot, and events are numbered in commit order, so
that a reader who has seen number n has seen all before it.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.orm import Session

_BUSY_SECONDS = 30
_WRITER_LOCK = 0x66756C63  # any number will do, so long as every writer takes the same


class Database:
    """Gives sessions that read, and sessions that write."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._reader, self._writer = _sqlite_engine(url, "DEFERRED"), _sqlite_engine(url, "IMMEDIATE")
        else:
            self._reader = self._writer = create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=20)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session over one snapshot (SQLite) or committed rows (PostgreSQL); nothing it changes is kept."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """The only writing transaction there is; commits at the end, rolls back when anything is raised."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            if not self.is_sqlite:
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self._reader.dispose()
        self._writer.dispose()


def _write_ahead(connection: Any) -> None:
    """Change to the write-ahead log. Of two that do so at once, SQLite fails one without letting it wait."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _sqlite_engine(url: str, mode: str) -> Engine:
    database = make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    # A pool of one makes this process's writers queue in order instead of polling for SQLite's lock.
    pool = {"pool_size": 1, "max_overflow": 0} if mode == "IMMEDIATE" else {"pool_size": 5, "max_overflow": 40}
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, pool_timeout=_BUSY_SECONDS, **pool)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        _write_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
