"""The sentences of a verdict, in plain English."""

from collections.abc import Iterable, Mapping, Sequence

from device_agent.contracts import Fault
from search.candidate import BudgetReport, Candidate
from search.objectives import worst

_NAMES = {"decode_ms": "decode latency", "ttft_ms": "time to first token", "peak_memory_mb": "peak memory"}
_UNITS = {"decode_ms": "ms per token", "ttft_ms": "ms", "peak_memory_mb": "MB"}

_MANY = 10.0


def said(sentences: Iterable[str]) -> str:
    """One paragraph."""
    return " ".join(sentence for sentence in sentences if sentence)


def amount(budget: str, value: float) -> str:
    """A value with its unit, to three digits; as many as it takes to say that it is not nothing."""
    if 0 < abs(value) < 0.01:
        return f"{value:.3g} {_UNITS[budget]}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {_UNITS[budget]}"


def winner_sentences(
    winner: Candidate, feasible: int, tried: int, probability: float, confident: float, bounded: bool
) -> list[str]:
    """Who wins and how sure that is."""
    bits = f"{winner.quality.bits_per_byte:.3f} bits per byte" if winner.quality else "no score"
    if not bounded:
        return [f"Candidate {winner.number} wins with the best quality, {bits}, of {tried} tried; no budget was set."]
    surest = "the surest of the finalists" if winner.finalist else "the surest"
    kept = _count(feasible, "candidate that keeps", "candidates that keep")
    if probability >= confident:
        return [f"Candidate {winner.number} wins with {bits}, of {kept} every budget, out of {tried} tried."]
    return [
        f"Candidate {winner.number} wins with {bits}: of {kept} every budget, out of {tried} tried, it is {surest}.",
        f"Still, it keeps all of them with a probability of only {probability:.0%}: "
        f"measure it again with more blocks before you rely on it.",
    ]


def race_sentence(finalists: Sequence[Candidate], keeping: int, winner: Candidate | None) -> str:
    """What came of measuring the finalists again, `keeping` of whom still keep every budget."""
    if not finalists:
        return ""
    kept = f"{keeping or 'none'} of {_count(len(finalists), 'finalist', 'finalists')}"
    faults = [f"candidate {c.number} failed with {c.confirm_fault.slug}" for c in finalists if c.confirm_fault]
    found = ", ".join([f"Measured again, {kept} {'keep' if keeping > 1 else 'keeps'} every budget", *faults])
    if winner is None or winner.finalist:
        return f"{found}."
    return f"{found}; candidate {winner.number} was not measured again, so its first measurement alone speaks for it."


def excluded_sentence(report: BudgetReport, other: Candidate | None) -> str:
    """How one budget bears on the winner; `other` would win without it."""
    name, bound = _NAMES[report.budget].capitalize(), amount(report.budget, report.bound)
    used = f"the winner takes {amount(report.budget, report.winner_value or 0.0)} of {bound}"
    if other is None:
        return f"{name} does not bind: {used}."
    bits = f"{other.quality.bits_per_byte:.3f} bits per byte" if other.quality else "no score"
    value = amount(report.budget, worst(other.judged, report.budget))
    return f"{name} binds ({used}): without it candidate {other.number} would win, with {bits} at {value}."


def nothing_feasible(
    done: int, reports: Sequence[BudgetReport], nearest: tuple[Candidate, Mapping[str, float]] | None
) -> str:
    """Which budgets are missed and by how much, and what to do about it; `nearest` comes with its violations."""
    if not done:
        return "There is no winner: no candidate was measured and scored."
    sentences = [f"There is no winner: none of {_count(done, 'candidate', 'candidates')} keeps every budget."]
    if nearest is None:
        return said(sentences)
    candidate, violations = nearest
    unmet = [r for r in reports if r.best_value is not None and r.best_value > r.bound]
    for report in unmet:
        best, over = report.best_value or 0.0, (report.best_value or 0.0) / report.bound - 1
        sentences.append(
            f"Nobody keeps the {_NAMES[report.budget]} of {amount(report.budget, report.bound)}: "
            f"the best seen is {amount(report.budget, best)}, {_over(over)}."
        )
    if not unmet:
        sentences.append("Each budget by itself is kept by some candidate, but not all together.")
    broken = {name: excess for name, excess in violations.items() if excess > 0}
    misses = ", ".join(
        f"{_NAMES[name]} {amount(name, worst(candidate.judged, name))} ({_over(excess)})"
        for name, excess in broken.items()
    )
    sentences.append(f"Candidate {candidate.number} comes nearest: {misses}.")
    raised = " and ".join(f"{name} to {_raised(candidate, name)}" for name in broken)
    sentences.append(
        f"To get a winner, raise {raised}, or let the space contain smaller models (width, depth, ffn_ratio), "
        f"or try more candidates."
    )
    return said(sentences)


def failures_sentence(tried: int, faults: Mapping[str, int], last: Fault | None) -> str:
    """How many failed, and of what."""
    if last is None:
        return ""
    kinds = ", ".join(f"{times} with {slug}" for slug, times in sorted(faults.items(), key=lambda f: (-f[1], f[0])))
    advice = f" {last.advice}" if last.advice else ""
    message = last.message if last.message.endswith((".", "!", "?")) else f"{last.message}."
    return f"{sum(faults.values())} of {tried} tried failed ({kinds}); the last said: {message}{advice}"


def _raised(candidate: Candidate, budget: str) -> str:
    """A bound that this candidate keeps with a little room, to three digits."""
    return f"{worst(candidate.judged, budget) * 1.05:.3g}"


def _over(excess: float) -> str:
    """How far beyond a bound, as a part of it; far beyond, nobody reads percents."""
    return f"{excess:.0%} over" if excess < _MANY else f"{excess + 1:,.0f} times as much"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
