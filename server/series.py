"""A stage's metrics over its training: what is noted of them, and which points stay when there are many."""

import time
from collections.abc import Callable, Mapping, Sequence

LIMIT = 1000
"""Points of one stage; beyond it they are thinned to half."""

Names = frozenset[str]


class Pace:
    """Says which reports to note: of each set of names the first, then one in so many seconds.

    What comes seldom, as held-out scores do, brings names that the report before had not; it may come ten times as
    fast, since each is dear.
    """

    def __init__(self, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._noted: dict[Names, float] = {}
        self._before = Names()

    def due(self, names: Names = frozenset()) -> bool:
        """Whether a report with these names is to be noted now; if so, that counts as done."""
        now, wait = self._clock(), self._seconds if names <= self._before else self._seconds / 10
        self._before = names
        if names in self._noted and now < self._noted[names] + wait:
            return False
        self._noted[names] = now
        return True


def thinned(points: Mapping[int, Names], limit: int) -> set[int]:
    """Which points to keep of a series, at most `limit` of them, given by tokens and the names that each holds.

    Points with the same names are thinned together, the most frequent first, evenly over the tokens; the first and the
    last of them stay. So a few held-out scores live among many losses, and it does not matter how often a series was
    thinned before. (More sets of names than `limit` would leave a point of each.)
    """
    groups: dict[Names, list[int]] = {}
    for tokens in sorted(points):
        groups.setdefault(points[tokens], []).append(tokens)
    total = len(points)
    while total > limit:
        names = max(groups, key=lambda names: len(groups[names]))
        before = groups[names]
        if len(before) == 1:
            break
        ends = min(2, len(before) - 1)  # while others can still give, both stay
        groups[names] = _spread(before, max(limit - total + len(before), len(before) // 2, ends))
        total += len(groups[names]) - len(before)
    return {tokens for group in groups.values() for tokens in group}


def _spread(points: Sequence[int], count: int) -> list[int]:
    """At most `count` of rising `points`: the first, and the last of each of `count - 1` equal parts of the rest."""
    first, last = points[0], points[-1]
    if count == 1:
        return [last]
    parts = {-((first - tokens) * (count - 1) // (last - first)): tokens for tokens in points}
    return list(parts.values())
