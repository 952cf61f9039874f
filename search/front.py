"""The front: what nothing else beats in every respect."""

from collections.abc import Sequence


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere above `b` and somewhere below it."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front_of(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates, all minimised, in order; equal points stay together.

    In rising lexicographic order only an earlier point can dominate a later one, and then one of the front does,
    so each point meets the front alone: O(n f) for a front of f.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        if not any(dominates(points[j], points[i]) for j in front):
            front.append(i)
    return sorted(front)
