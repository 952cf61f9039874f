"""How far a judge can be trusted, from its own votes."""

import math
from collections.abc import Sequence

from trainer.preference.judges.port import Comparison


def bias(comparisons: Sequence[Comparison], lengths: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Figures of a judge's votes on pairs of answers of these `lengths`; one that cannot be computed is left out.

    agreement: votes that are those of their comparison's result. position_flips: of votes that saw one pair in both
    orders, those that changed with the order. first_shown: of votes with a preference, those for the answer shown
    first (0.5 where places do not matter). length_correlation: Pearson's, of a vote with the logarithm of the lengths'
    ratio (positive: longer answers win). verified: comparisons that a verifier decided. invalid: replies that were
    no vote.
    """
    votes = [(vote, found) for found in comparisons for vote in found.votes]
    sides = [vote.preferred * (-1 if vote.swapped else 1) for vote, _ in votes]
    longer = [
        (vote.preferred, math.log((1 + first) / (1 + second)))
        for found, (first, second) in zip(comparisons, lengths, strict=True)
        for vote in found.votes
    ]
    invalid = sum(found.invalid for found in comparisons)
    figures = {
        "agreement": _mean([float(vote.preferred == found.preferred) for vote, found in votes]),
        "position_flips": _mean([float(a != b) for found in comparisons for a, b in _both_orders(found)]),
        "first_shown": _mean([float(side > 0) for side in sides if side]),
        "length_correlation": _correlation(longer),
        "verified": _mean([float(found.verified != 0) for found in comparisons]),
        "invalid": invalid / (invalid + len(votes)) if invalid + len(votes) else None,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _both_orders(found: Comparison) -> list[tuple[int, int]]:
    plain, swapped = ([v.preferred for v in found.votes if v.swapped is order] for order in (False, True))
    return list(zip(plain, swapped, strict=False))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _correlation(points: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's; None where one of the two never varies."""
    if len(points) < 2:
        return None
    xs, ys = zip(*points, strict=True)
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = math.sqrt(sum((a - x) ** 2 for a in xs) * sum((b - y) ** 2 for b in ys))
    return sum((a - x) * (b - y) for a, b in points) / spread if spread > 0 else None
