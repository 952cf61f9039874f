"""Which worker holds which search or run. A claim lapses, so that a killed worker's work is taken up by the next."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from device_agent.contracts import Fault
from search.spec import SearchSpec
from server import events
from server.clock import Clock, utc_now
from server.database import Database
from server.errors import OwnershipLost
from server.queue.store import JobQueue
from server.runs import RunSpec, WorkState
from server.tables import RunRow, SearchRow
from trainer.architecture import Architecture

Row = TypeVar("Row", SearchRow, RunRow)


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
        """The oldest search that waits, or whose worker is gone; None when there is none."""
        with self._database.write() as session:
            row = self._claim(session, SearchRow, owner)
            return None if row is None else _search(row)

    def claim_run(self, owner: str) -> ClaimedRun | None:
        """The oldest run that waits, or whose worker is gone; None when there is none."""
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
        self._set(owner, owner, self._clock() + self._lasts)

    def release(self, owner: str) -> None:
        """Let go of everything that `owner` holds, so that the next worker need not wait."""
        self._set(owner, None, None)

    def finish_search(self, search: str, owner: str, state: WorkState, fault: Fault | None = None) -> None:
        """End a search; jobs of it that are still open are asked to stop.

        Raises:
            OwnershipLost: another worker holds it.
        """
        with self._database.write() as session:
            row = held(session, SearchRow, search, owner)
            self._finish(row, state, fault)
            self._queue.cancel_for(session, search=search)
            events.record(session, self._clock(), "search", search, search)

    def finish_run(self, run: str, owner: str, state: WorkState, fault: Fault | None = None) -> None:
        """End a run; jobs of it that are still open are asked to stop.

        Raises:
            OwnershipLost: another worker holds it.
        """
        with self._database.write() as session:
            row = held(session, RunRow, run, owner)
            self._finish(row, state, fault)
            self._queue.cancel_for(session, run=run)
            events.record(session, self._clock(), "run", run, row.search_id)

    def _claim(self, session: Session, table: type[Row], owner: str) -> Row | None:
        now = self._clock()
        left = (table.state == WorkState.RUNNING) & or_(table.owner_until.is_(None), table.owner_until <= now)
        row = session.scalar(
            select(table).where(or_(table.state == WorkState.QUEUED, left)).order_by(table.created_at, table.id)
        )
        if row is None:
            return None
        row.state, row.owner, row.owner_until = WorkState.RUNNING, owner, now + self._lasts
        row.started_at = row.started_at or now
        search = row.search_id if isinstance(row, RunRow) else row.id
        events.record(session, now, "run" if isinstance(row, RunRow) else "search", row.id, search)
        return row

    def _set(self, owner: str, to: str | None, until: datetime | None) -> None:
        with self._database.write() as session:
            for table in (SearchRow, RunRow):
                mine = (table.owner == owner) & (table.state == WorkState.RUNNING)
                session.execute(update(table).where(mine).values(owner=to, owner_until=until))

    def _finish(self, row: SearchRow | RunRow, state: WorkState, fault: Fault | None) -> None:
        row.state, row.owner, row.owner_until = state, None, None
        row.finished_at = self._clock()
        row.fault_json = None if fault is None else fault.model_dump_json()


def held(session: Session, table: type[Row], name: str, owner: str) -> Row:
    """The row, if `owner` holds it; every write of a worker goes through here, so a zombie's is refused.

    Raises:
        OwnershipLost: another worker holds it, or it has ended.
    """
    row = session.get(table, name)
    if row is None or row.owner != owner or row.state != WorkState.RUNNING:
        raise OwnershipLost(f"{name} is held by this worker no longer", advice="Stop the work; write nothing more.")
    return row


def _search(row: SearchRow) -> ClaimedSearch:
    return ClaimedSearch(id=row.id, spec=SearchSpec.model_validate_json(row.spec_json))
