"""Which weights to merge with: a compass search (Kolda et al. 2003, section 1.2) by evaluation."""

from collections.abc import Callable, Iterator

Weights = tuple[float, ...]
Report = Callable[[int, int, float], None]
"""(evaluations done, evaluations at most, best value so far)."""

_FIRST_STEP = 0.25
_LAST_STEP = 0.02
_DIGITS = 4  # weights that agree so far are one point


def search_weights(
    value: Callable[[Weights], float], count: int, evaluations: int, *, on_simplex: bool, report: Report
) -> tuple[Weights, float]:
    """The best of at most `evaluations` points, and its value; lower is better.

    Around the best point so far, weight is moved from one model to another (`on_simplex`, where only their proportion
    matters) or a single weight is raised or lowered; where nothing helps, the step is halved.

    Args:
        value: of a point; called once for each.
        count: how many weights.
        evaluations: the budget; at least one, for equal weights.
        on_simplex: whether the weights sum to one.
        report: told after every evaluation.
    """
    best: Weights = (round(1 / count, _DIGITS),) * count
    seen = {best: value(best)}
    report(1, evaluations, seen[best])
    step = _FIRST_STEP
    while step >= _LAST_STEP:
        before = best
        for point in _around(before, step, on_simplex):
            if point in seen:
                continue
            if len(seen) >= evaluations:
                return best, seen[best]
            seen[point] = value(point)
            best = min(best, point, key=seen.__getitem__)
            report(len(seen), evaluations, seen[best])
        if best == before:
            step /= 2
    return best, seen[best]


def _around(point: Weights, step: float, on_simplex: bool) -> Iterator[Weights]:
    for i, weight in enumerate(point):
        if not on_simplex:
            for moved in (weight + step, max(0.0, weight - step)):
                yield _with(point, {i: moved})
            continue
        for j, other in enumerate(point):
            amount = min(step, other)
            if i != j and amount > 0:
                yield _with(point, {i: weight + amount, j: other - amount})


def _with(point: Weights, changes: dict[int, float]) -> Weights:
    return tuple(round(changes.get(i, weight), _DIGITS) for i, weight in enumerate(point))
