"""The race of the finalists: who is measured again before the verdict."""

from collections.abc import Iterable

from search.candidate import Candidate
from search.objectives import bounds
from search.spec import SearchSpec
from search.verdict import ranking


def finalists(spec: SearchSpec, candidates: Iterable[Candidate]) -> tuple[int, ...]:
    """Numbers of the up to `effort.finalists` candidates that come first by their first measurements.

    That is the verdict's own ranking: the sure by quality, then the surest; so the one that would win without a race
    is always in it. What the race has found so far does not count: the same ledger gives the same finalists however
    often the race was stopped. Without a budget there is nothing that a second measurement could refute, and nobody
    is in the race.
    """
    limits = bounds(spec.budgets)
    if not limits:
        return ()
    before = [c.model_copy(update={"confirmed": {}, "confirm_fault": None}) for c in candidates]
    return tuple(c.number for c in ranking(before, limits)[: spec.effort.finalists])
