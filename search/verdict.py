"""How a search ends: the front, at most one winner with the probability that it keeps each budget, and why."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from device_agent.contracts import Figure
from search.candidate import BudgetReport, Candidate, Phase, Verdict
from search.front import front_of
from search.objectives import bounds, figure, worst
from search.spec import SearchSpec
from search.wording import excluded_sentence, failures_sentence, nothing_feasible, said, winner_sentences

CONFIDENT = 0.9
_NORMAL_95 = 1.959964  # half the width of a normal's 95 % interval, in standard deviations


def decide(spec: SearchSpec, candidates: Iterable[Candidate]) -> Verdict:
    """The verdict over a ledger, finished or not."""
    rows = sorted(candidates, key=lambda c: c.number)
    limits = bounds(spec.budgets)
    winner = pick_winner(rows, limits)
    reports = tuple(_report(name, limits, rows, winner) for name in limits)
    return Verdict(
        front=feasible_front(rows),
        winner=None if winner is None else winner.number,
        budgets=reports,
        why=_why(rows, limits, winner, reports),
    )


def feasible_front(candidates: Iterable[Candidate]) -> tuple[int, ...]:
    """Numbers of the feasible candidates that no feasible one dominates."""
    feasible = [c for c in candidates if c.feasible and c.values is not None]
    return tuple(feasible[i].number for i in front_of([c.values or () for c in feasible]))


def pick_winner(candidates: Sequence[Candidate], limits: Mapping[str, float]) -> Candidate | None:
    """The best quality among those that keep every limit with a probability of at least 90 %.

    If all that keep the limits are less sure than that, the surest of them. Ties go to fewer parameters, then to
    the smaller number. None if no candidate keeps every limit.
    """
    keeping = [c for c in candidates if c.phase is Phase.DONE and all(_value(c, b) <= limits[b] for b in limits)]
    sure = [c for c in keeping if keeps_all(c, limits) >= CONFIDENT]
    if sure:
        return min(sure, key=lambda c: (_bits(c), c.parameters, c.number))
    return min(keeping, key=lambda c: (-keeps_all(c, limits), _bits(c), c.parameters, c.number), default=None)


def keeps_probability(measured: Figure, bound: float) -> float:
    """P(true median <= bound), the median taken as normal around the measured one.

    Its standard deviation is the 95 % bootstrap interval's width over 2 x 1.96: P = Phi((bound - value) / sigma).
    Without a spread (one block, or memory) it is 1 or 0.
    """
    sigma = (measured.high - measured.low) / (2 * _NORMAL_95)
    if sigma <= 0:
        return 1.0 if measured.value <= bound else 0.0
    return NormalDist(measured.value, sigma).cdf(bound)


def keeps(candidate: Candidate, budget: str, bound: float) -> float:
    """P that a candidate keeps one budget on every phone: the product, phones taken as independent."""
    return math.prod(keeps_probability(figure(p, budget), bound) for p in candidate.profiles.values())


def keeps_all(candidate: Candidate, limits: Mapping[str, float]) -> float:
    """P that a candidate keeps every limit: the product over limits, which is too low where they go together."""
    return math.prod(keeps(candidate, name, bound) for name, bound in limits.items())


def _value(candidate: Candidate, budget: str) -> float:
    return worst(candidate.profiles, budget)


def _bits(candidate: Candidate) -> float:
    return candidate.quality.bits_per_byte if candidate.quality else math.inf


def _without(limits: Mapping[str, float], name: str) -> dict[str, float]:
    return {other: bound for other, bound in limits.items() if other != name}


def _report(
    name: str, limits: Mapping[str, float], rows: Sequence[Candidate], winner: Candidate | None
) -> BudgetReport:
    measured = [_value(c, name) for c in rows if c.profiles]
    return BudgetReport(
        budget=name,
        bound=limits[name],
        winner_value=None if winner is None else _value(winner, name),
        keeps_probability=None if winner is None else keeps(winner, name, limits[name]),
        best_value=min(measured, default=None),
        excluded=sum(value > limits[name] for value in measured),
        binding=pick_winner(rows, _without(limits, name)) != winner,
    )


def _why(
    rows: Sequence[Candidate],
    limits: Mapping[str, float],
    winner: Candidate | None,
    reports: Sequence[BudgetReport],
) -> str:
    done = [c for c in rows if c.phase is Phase.DONE]
    faults = Counter(c.fault.slug for c in rows if c.fault is not None)
    last = next((c.fault for c in reversed(rows) if c.fault is not None), None)
    failed = failures_sentence(len(rows), faults, last)
    if winner is None:
        nearest = min(done, key=lambda c: (max(c.violations.values(), default=0.0), c.number), default=None)
        return said([nothing_feasible(len(done), reports, nearest), failed])
    feasible = sum(all(_value(c, b) <= limits[b] for b in limits) for c in done)
    sentences = winner_sentences(winner, feasible, len(rows), keeps_all(winner, limits), CONFIDENT, bool(limits))
    for report in reports:
        other = pick_winner(done, _without(limits, report.budget)) if report.binding else None
        sentences.append(excluded_sentence(report, other))
    return said([*sentences, failed])
