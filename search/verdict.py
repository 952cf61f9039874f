"""How a search ends: the front, at most one winner with the probability that it keeps each budget, and why."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from search.candidate import BudgetReport, Candidate, Phase, Verdict
from search.front import front_of
from search.objectives import bounds, figure, violations, worst
from search.spec import SearchSpec
from search.wording import excluded_sentence, failures_sentence, nothing_feasible, race_sentence, said, winner_sentences

CONFIDENT = 0.9


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
        why=_why(spec, rows, winner, reports),
    )


def feasible_front(candidates: Iterable[Candidate]) -> tuple[int, ...]:
    """Numbers of the feasible candidates that no feasible one dominates."""
    feasible = [c for c in candidates if c.feasible and c.values is not None]
    return tuple(feasible[i].number for i in front_of([c.values or () for c in feasible]))


def pick_winner(candidates: Sequence[Candidate], limits: Mapping[str, float]) -> Candidate | None:
    """The first of the finalists by their second measurement alone; where none keeps every limit, of the others.

    Whoever comes first by one measurement is likely to owe it to luck, and breaks the budget when measured again:
    in 24 to 62 % of cases on four devices, against 1 to 13 % when candidates are walked down by quality and judged by
    measurements that had no part in choosing them (reference/search.md, section 6). The second measurement is such a
    one. The others have no other than their first.
    """
    finalists, others = _split(candidates)
    return next(iter([*ranking(finalists, limits), *ranking(others, limits)]), None)


def ranking(candidates: Iterable[Candidate], limits: Mapping[str, float]) -> list[Candidate]:
    """Those that keep every limit, best first.

    First, by quality, those that keep the limits with a probability of at least 90 %; then the less sure, the surest
    first. Ties go to fewer parameters, then to the smaller number.
    """

    def place(candidate: Candidate) -> tuple[float, ...]:
        chance = keeps_all(candidate, limits)
        tie = (_bits(candidate), candidate.parameters, candidate.number)
        return (0.0, *tie) if chance >= CONFIDENT else (1.0, -chance, *tie)

    return sorted((c for c in candidates if _keeping(c, limits)), key=place)


def keeps(candidate: Candidate, budget: str, bound: float) -> float:
    """P that a candidate keeps one budget on every phone: the product, phones taken as independent."""
    return math.prod(figure(p, budget).at_most(bound) for p in candidate.judged.values())


def keeps_all(candidate: Candidate, limits: Mapping[str, float]) -> float:
    """P that a candidate keeps every limit: the product over limits, which is too low where they go together."""
    return math.prod(keeps(candidate, name, bound) for name, bound in limits.items())


def _split(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    rows = list(candidates)
    return [c for c in rows if c.finalist], [c for c in rows if not c.finalist]


def _keeping(candidate: Candidate, limits: Mapping[str, float]) -> bool:
    able = candidate.phase is Phase.DONE and candidate.confirm_fault is None
    return able and all(_value(candidate, name) <= bound for name, bound in limits.items())


def _value(candidate: Candidate, budget: str) -> float:
    return worst(candidate.judged, budget)


def _bits(candidate: Candidate) -> float:
    return candidate.quality.bits_per_byte if candidate.quality else math.inf


def _without(
    name: str, limits: Mapping[str, float], rows: Sequence[Candidate], winner: Candidate | None
) -> Candidate | None:
    """Who would win without a limit: the winner, or one that this limit alone has kept from it.

    Who surely keeps all limits and still did not win stood behind the winner for another reason.
    """
    fewer = {other: bound for other, bound in limits.items() if other != name}
    rivals = [c for c in rows if c is winner or keeps_all(c, limits) < CONFIDENT]
    return next(iter(ranking(rivals, fewer)), None)


def _report(
    name: str, limits: Mapping[str, float], rows: Sequence[Candidate], winner: Candidate | None
) -> BudgetReport:
    measured = [_value(c, name) for c in rows if c.judged and c.confirm_fault is None]
    return BudgetReport(
        budget=name,
        bound=limits[name],
        winner_value=None if winner is None else _value(winner, name),
        keeps_probability=None if winner is None else keeps(winner, name, limits[name]),
        best_value=min(measured, default=None),
        excluded=sum(value > limits[name] for value in measured),
        binding=_without(name, limits, rows, winner) is not winner,
    )


def _why(
    spec: SearchSpec,
    rows: Sequence[Candidate],
    winner: Candidate | None,
    reports: Sequence[BudgetReport],
) -> str:
    limits = bounds(spec.budgets)
    done = [c for c in rows if c.phase is Phase.DONE]
    finalists, _ = _split(rows)
    race = race_sentence(finalists, sum(_keeping(c, limits) for c in finalists), winner)
    faults = Counter(c.fault.slug for c in rows if c.fault is not None)
    last = next((c.fault for c in reversed(rows) if c.fault is not None), None)
    failed = failures_sentence(len(rows), faults, last)
    if winner is None:
        able = [(c, violations(spec, c.judged)) for c in done if c.confirm_fault is None]
        nearest = min(able, key=lambda one: (max(one[1].values(), default=0.0), one[0].number), default=None)
        return said([nothing_feasible(len(done), reports, nearest), race, failed])
    feasible = sum(_keeping(c, limits) for c in done)
    sentences = winner_sentences(winner, feasible, len(rows), keeps_all(winner, limits), CONFIDENT, bool(limits))
    sentences.append(race)
    for report in reports:
        other = _without(report.budget, limits, rows, winner) if report.binding else None
        sentences.append(excluded_sentence(report, other))
    return said([*sentences, failed])
