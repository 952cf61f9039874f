"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): a request that comes again is done once."""

from datetime import datetime

from pydantic import BaseModel
from sqlalchemy.orm import Session

from device_agent.contracts import content_hash
from server.errors import KeyReused
from server.tables import IdempotencyRow


def answered(session: Session, route: str, key: str | None, body: BaseModel) -> str | None:
    """The id of what an earlier request with this key made, or None.

    Raises:
        KeyReused: the earlier request had another body.
    """
    row = None if key is None else session.get(IdempotencyRow, (route, key))
    if row is None:
        return None
    if row.request_hash != content_hash(body):
        raise KeyReused(
            "this Idempotency-Key came before with another body", advice="Take a new key for a new request."
        )
    return row.subject


def remember(session: Session, route: str, key: str | None, body: BaseModel, subject: str, now: datetime) -> None:
    """Keep what a request with this key made, in the transaction that makes it."""
    if key is not None:
        row = IdempotencyRow(route=route, key=key, request_hash=content_hash(body), subject=subject, created_at=now)
        session.add(row)
