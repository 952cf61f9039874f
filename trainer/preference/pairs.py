"""Pairs out of scored answers: the best against the worst, far enough apart, and confirmed by the judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trainer.chat import Message
from trainer.generation import SamplingParams
from trainer.preference.judges import Case, Judge, Marks, Verifier, bias, total
from trainer.preference.rollouts import Answered, of_tutor
from trainer.preference.rows import Pair
from trainer.tutors.port import Tutor, Usage

_REVISE = (
    "Improve your last answer: correct what is wrong, leave out what is not needed, and keep what is good. "
    "Reply with the improved answer alone."
)


@dataclass(frozen=True)
class _Scored:
    answer: Answered
    marks: Marks
    total: float
    right: float
    """What a verifier says that overrules marks; 0.5 where none does, or it does not know."""


def make_pairs(
    cases: Sequence[Case],
    answers: Sequence[Sequence[Answered]],
    judge: Judge,
    *,
    margin: float,
    overruling: Verifier | None = None,
) -> tuple[list[tuple[Case, Pair]], dict[str, float]]:
    """(pairs, each with its case; figures of the answers and of the judge): the best against the worst of each case.

    There is no pair where the totals are less than `margin` apart or equal, nor where the judge, shown both, does not
    prefer the better one. Whatever the totals say, an answer that `overruling` calls right is better than a wrong one.
    """
    scored = _scored(cases, answers, judge, overruling)
    ends = [(case, max(group, key=_rank), min(group, key=_rank)) for case, group in zip(cases, scored, strict=True)
            if group]  # fmt: skip
    apart = [(case, best, worst) for case, best, worst in ends if _apart(best, worst, margin)]
    found = judge.compare([(case, best.answer.text, worst.answer.text) for case, best, worst in apart])
    pairs = [(one[0], _pair(*one, judge.name)) for one, votes in zip(apart, found, strict=True) if votes.preferred == 1]
    totals = [each.total for group in scored for each in group]
    figures = {
        "score": sum(totals) / len(totals) if totals else 0.0,
        "marked": float(len(totals)),
        "unmarked": float(sum(len(_once(group)) for group in answers) - len(totals)),
        "pairs": float(len(pairs)),
        "too_close": float(len(cases) - len(apart)),
        "withdrawn": float(len(apart) - len(pairs)),
    }
    lengths = [(len(best.answer.text), len(worst.answer.text)) for _, best, worst in apart]
    return pairs, figures | {f"judge/{name}": value for name, value in bias(found, lengths).items()}


def revised(
    judged: Sequence[tuple[Case, Pair]],
    tutor: Tutor,
    judge: Judge,
    sampling: SamplingParams,
    heard: Callable[[Usage], None] | None = None,
) -> list[Pair]:
    """The pairs, a chosen answer replaced by what the tutor makes of it where the judge prefers that."""
    pairs = [pair for _, pair in judged]
    asks = [
        Case((*pair.prompt, Message(role="assistant", content=pair.chosen), Message(role="user", content=_REVISE)))
        for pair in pairs
    ]
    offers = [group[0] if group else None for group in of_tutor(tutor, asks, sampling, 1, heard)]
    offered = [
        (number, offer) for number, offer in enumerate(offers) if offer is not None and not offer.cut and offer.text
    ]
    asked = [(judged[number][0], offer.text, pairs[number].chosen) for number, offer in offered]
    result = list(pairs)
    for (number, offer), votes in zip(offered, judge.compare(asked), strict=True):
        if votes.preferred == 1 and offer.text != pairs[number].rejected:
            known = pairs[number].provenance | {"revised_by": tutor.name, "revised_from": pairs[number].chosen}
            result[number] = replace(pairs[number], chosen=offer.text, chosen_cut=False, provenance=known)
    return result


def _scored(
    cases: Sequence[Case], answers: Sequence[Sequence[Answered]], judge: Judge, overruling: Verifier | None
) -> list[list[_Scored]]:
    """Each different answer that the judge could mark."""
    flat = [(number, answer) for number, group in enumerate(answers) for answer in _once(group)]
    found = judge.score([(cases[number], answer.text) for number, answer in flat])
    groups: list[list[_Scored]] = [[] for _ in cases]
    for (number, answer), marks in zip(flat, found, strict=True):
        if marks is not None:
            right = overruling(cases[number], answer.text) if overruling else None
            known = 0.5 if right is None else right
            groups[number].append(_Scored(answer, marks, total(marks, judge.criteria), known))
    return groups


def _once(group: Sequence[Answered]) -> list[Answered]:
    return list({answer.text: answer for answer in reversed(group)}.values())[::-1]


def _rank(scored: _Scored) -> tuple[float, float]:
    return scored.right, scored.total


def _apart(best: _Scored, worst: _Scored, margin: float) -> bool:
    return best.right > worst.right or best.total - worst.total >= max(margin, 1e-9)


def _pair(case: Case, best: _Scored, worst: _Scored, judge: str) -> Pair:
    known = {
        "judge": judge,
        "expected": case.expected,
        **({} if case.problem is None else {"problem": case.problem.source}),
        "chosen": {"author": best.answer.author, "marks": dict(best.marks), "total": best.total},
        "rejected": {"author": worst.answer.author, "marks": dict(worst.marks), "total": worst.total},
    }
    return Pair(case.messages, best.answer.text, worst.answer.text, best.answer.cut, worst.answer.cut, known)
