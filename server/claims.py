"""Which worker holds which search or run. A claim lapses, so that a killed worker's work is taken up by the next.

`attempts` counts claims that came no further. It rises in the transaction of the claim itself, so that a worker may be
killed at any line and has counted once; whoever lets go in order takes its claim back, and what comes further begins to
count anew. What nobody brings further fails at the claim after the last: it would kill every worker in turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from device_agent.contracts import Blame, Fault
from search.spec import SearchSpec
from server import events
from server.clock import Clock, utc_now
from server.database import Database
from server.errors import Conflict, OwnershipLost
from server.queue.store import JobQueue
from server.runs import TRIES, Progress, RunSpec, WorkState
from server.tables import RunRow, SearchRow
from trainer.architecture import Architecture

Row = TypeVar("Row", SearchRow, RunRow)

_NOBODY = {"owner": None, "owner_until": None}


@dataclass(frozen=True)
class ClaimedSearch:
    """A search to work on."""

    id: str
    spec: SearchSpec


@dataclass(frozen=True)
class ClaimedRun:
    """A run to work on, with the spec of the search that it came from."""

    id: str
    spec: RunSpec
    search: ClaimedSearch
    number: int
    architecture: Architecture


class Claims:
    """Claim, renew, release, finish. `owner` is a name of this worker process alone, new at every start."""

    def __init__(self, database: Database, queue: JobQueue, seconds: float = 20.0, clock: Clock = utc_now) -> None:
        self._database, self._queue, self._clock = database, queue, clock
        self._lasts = timedelta(seconds=seconds)

    def claim_search(self, owner: str) -> ClaimedSearch | None:
        """The oldest search that waits, or whose worker is gone; None when there is none.

        One that every worker left without a word is not given a further one: it fails.
        """
        with self._database.write() as session:
            row = self._claim(session, SearchRow, owner)
            return None if row is None else _search(row)

    def claim_run(self, owner: str) -> ClaimedRun | None:
        """The oldest run that waits, or whose worker is gone, as with searches; None when there is none."""
        with self._database.write() as session:
            row = self._claim(session, RunRow, owner)
            if row is None:
                return None
            search = session.get_one(SearchRow, row.search_id)
            return ClaimedRun(
                id=row.id,
                spec=RunSpec.model_validate_json(row.spec_json),
                search=_search(search),
                number=row.number,
                architecture=Architecture.model_validate_json(row.architecture_json),
            )

    def renew(self, owner: str) -> None:
        """Keep everything that `owner` holds; call it at least three times within the claim's seconds."""
        self._set(owner, {"owner_until": self._clock() + self._lasts})

    def attempts(self, owner: str) -> int:
        """How often in a row what `owner` holds was claimed without coming further; 0 when it holds nothing."""
        with self._database.read() as session:
            found = (session.scalar(select(table.attempts).where(_of(table, owner))) for table in (SearchRow, RunRow))
            return max(attempts or 0 for attempts in found)

    def release(self, owner: str) -> None:
        """Let go in order of everything that `owner` holds: the next worker need not wait, and this claim never was."""
        self._set(owner, _NOBODY, uncounted=1)

    def retry(self, owner: str) -> None:
        """Let go of what `owner` holds because it failed: the next worker need not wait, and this claim counts."""
        self._set(owner, _NOBODY)

    def finish_search(self, search: str, owner: str, state: WorkState, fault: Fault | None = None) -> None:
        """End a search; jobs of it that are still open are asked to stop.

        Raises:
            OwnershipLost: another worker holds it.
        """
        with self._database.write() as session:
            self._finish(session, held(session, SearchRow, search, owner), state, fault)

    def finish_run(self, run: str, owner: str, state: WorkState, fault: Fault | None = None) -> None:
        """End a run; jobs of it that are still open are asked to stop.

        Raises:
            OwnershipLost: another worker holds it.
        """
        with self._database.write() as session:
            self._finish(session, held(session, RunRow, run, owner), state, fault)

    def _claim(self, session: Session, table: type[Row], owner: str) -> Row | None:
        now = self._clock()
        left = (table.state == WorkState.RUNNING) & or_(table.owner_until.is_(None), table.owner_until <= now)
        waiting = select(table).where(or_(table.state == WorkState.QUEUED, left)).order_by(table.created_at, table.id)
        while (row := session.scalar(waiting)) is not None and row.attempts >= TRIES:
            if row.cancel_requested:
                self._finish(session, row, WorkState.CANCELLED, None)
            else:
                self._finish(session, row, WorkState.FAILED, _vanished(row))
        if row is None:
            return None
        row.state, row.owner, row.owner_until = WorkState.RUNNING, owner, now + self._lasts
        row.started_at = row.started_at or now
        row.attempts += 1
        _tell(session, row, now)
        return row

    def _set(self, owner: str, columns: Mapping[str, datetime | None], uncounted: int = 0) -> None:
        with self._database.write() as session:
            for table in (SearchRow, RunRow):
                counted = table.attempts - uncounted
                session.execute(update(table).where(_of(table, owner)).values(**columns, attempts=counted))

    def _finish(self, session: Session, row: SearchRow | RunRow, state: WorkState, fault: Fault | None) -> None:
        row.state, row.owner, row.owner_until = state, None, None
        row.finished_at = self._clock()
        row.fault_json = None if fault is None else fault.model_dump_json()
        self._queue.cancel_for(session, **_named(row))
        _tell(session, row, self._clock())


def held(session: Session, table: type[Row], name: str, owner: str) -> Row:
    """The row, if `owner` holds it; every write of a worker goes through here, so a zombie's is refused.

    Raises:
        OwnershipLost: another worker holds it, or it has ended.
    """
    row = session.get(table, name)
    if row is None or row.owner != owner or row.state != WorkState.RUNNING:
        raise OwnershipLost(f"{name} is held by this worker no longer", advice="Stop the work; write nothing more.")
    return row


def resume(session: Session, queue: JobQueue, row: SearchRow | RunRow, now: datetime) -> None:
    """Have what failed or was cancelled go on from where it came to, with all its tries; what is open stays as it is.

    Raises:
        Conflict: it has succeeded.
    """
    if row.state == WorkState.SUCCEEDED:
        raise Conflict(f"{row.id} has succeeded; nothing is left to do", advice="Submit another one.")
    if WorkState(row.state).final:
        row.state, row.cancel_requested, row.attempts = WorkState.QUEUED, False, 0
        row.finished_at = row.fault_json = None
        row.progress_json = Progress(message="waiting for a worker").model_dump_json()
        queue.resume_for(session, **_named(row))
        _tell(session, row, now)


def _of(table: type[SearchRow] | type[RunRow], owner: str) -> ColumnElement[bool]:
    return (table.owner == owner) & (table.state == WorkState.RUNNING)


def _named(row: SearchRow | RunRow) -> dict[str, str]:
    return {"run" if isinstance(row, RunRow) else "search": row.id}


def _tell(session: Session, row: SearchRow | RunRow, now: datetime) -> None:
    if isinstance(row, RunRow):
        events.record(session, now, "run", row.id, row.search_id)
    else:
        events.record(session, now, "search", row.id, row.id)


def _vanished(row: SearchRow | RunRow) -> Fault:
    kind = "run" if isinstance(row, RunRow) else "search"
    at = Progress.model_validate_json(row.progress_json).message
    return Fault(
        blame=Blame.INFRASTRUCTURE,
        slug="worker-killed",
        message=f"{row.attempts} tries in a row came no further, and the last one's worker was killed or lost its power"
        + (f" at: {at}" if at else ""),
        advice="Most often the host had no memory left: look for 'Out of memory' in its kernel's log (`dmesg`). Free"
        f" some or ask for less; to go on from where it is: `fulcrum {kind} resume {row.id}`.",
    )


def _search(row: SearchRow) -> ClaimedSearch:
    return ClaimedSearch(id=row.id, spec=SearchSpec.model_validate_json(row.spec_json))
