"""The table of stages' metrics: a series rises in tokens, and what is trained again replaces what was told before."""

import json
import math
from collections.abc import Collection

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from server.runs import MetricPoint
from server.series import LIMIT, thinned
from server.tables import MetricRow


def finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """The metrics as they are kept: JSON knows no NaN and no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def note(session: Session, run: str, position: int, point: MetricPoint) -> None:
    """Add a point to a stage's series, in the transaction of its caller.

    Points of more tokens go: they were told by a worker that was killed before it saved them, or before the training
    went back a way. At the same number of tokens, figures are told together.
    """
    mine = _of(run, position)
    session.execute(delete(MetricRow).where(mine, MetricRow.tokens > point.tokens))
    row = session.get(MetricRow, (run, position, point.tokens))
    if row is None:
        row = MetricRow(run_id=run, position=position, tokens=point.tokens, values_json="{}")
        session.add(row)
    row.at = point.at
    row.values_json = json.dumps(json.loads(row.values_json) | point.values)
    session.flush()
    if (session.scalar(select(func.count()).where(mine)) or 0) > LIMIT:
        _thin(session, mine)


def series(
    session: Session, run: str, position: int, *, since: int = 0, names: Collection[str] = (), limit: int = LIMIT
) -> tuple[MetricPoint, ...]:
    """A stage's points after `since` tokens that tell any of `names` (all, where none is named), at most `limit`."""
    rows = session.scalars(
        select(MetricRow).where(_of(run, position), MetricRow.tokens > since).order_by(MetricRow.tokens)
    )
    points = [MetricPoint(tokens=row.tokens, at=row.at, values=_chosen(row.values_json, names)) for row in rows]
    told = {point.tokens: frozenset(point.values) for point in points if point.values}
    kept = thinned(told, limit)
    return tuple(point for point in points if point.tokens in kept)


def _of(run: str, position: int) -> ColumnElement[bool]:
    return (MetricRow.run_id == run) & (MetricRow.position == position)


def _chosen(values_json: str, names: Collection[str]) -> dict[str, float | None]:
    values: dict[str, float | None] = json.loads(values_json)
    return {name: value for name, value in values.items() if not names or name in names}


def _thin(session: Session, mine: ColumnElement[bool]) -> None:
    rows = session.execute(select(MetricRow.tokens, MetricRow.values_json).where(mine))
    told = {tokens: frozenset(json.loads(values)) for tokens, values in rows}
    gone = told.keys() - thinned(told, LIMIT // 2)
    session.execute(delete(MetricRow).where(mine, MetricRow.tokens.in_(gone)))
