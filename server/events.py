"""Events: what changed, written in the transaction that changed it."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server.api.views import EventType, EventView
from server.database import Database
from server.tables import EventRow


def record(session: Session, now: datetime, kind: EventType, subject: str, search: str | None = None) -> None:
    """Note that `subject` changed; it becomes visible if and when the session's transaction commits."""
    session.add(EventRow(type=kind, subject=subject, search_id=search, at=now))


def newest(database: Database) -> int:
    """The number of the last event, 0 before the first."""
    with database.read() as session:
        return session.scalar(select(func.max(EventRow.seq))) or 0


def after(database: Database, seq: int, limit: int = 500) -> list[tuple[int, EventView]]:
    """The next events with their numbers, oldest first."""
    with database.read() as session:
        rows = session.scalars(select(EventRow).where(EventRow.seq > seq).order_by(EventRow.seq).limit(limit))
        return [(row.seq, EventView.model_validate(_plain(row))) for row in rows]


def _plain(row: EventRow) -> dict[str, str | None]:
    return {"type": row.type, "id": row.subject, "search": row.search_id}
