"""A judge that is overruled where an answer can be verified."""

from collections.abc import Sequence

from trainer.preference.judges.port import Case, Comparison, Judge, Marks, Verifier

CORRECTNESS = "correctness"


class Verified:
    """`judge`, but an answer is as correct as `verifier` says, and the more correct of two is preferred."""

    def __init__(self, judge: Judge, verifier: Verifier) -> None:
        self._judge, self._verifier = judge, verifier
        self.name = f"{judge.name}, verified"
        self.criteria = judge.criteria

    def score(self, asked: Sequence[tuple[Case, str]]) -> list[Marks | None]:
        """See `Judge`; the mark for correctness is the verifier's wherever it has one."""
        found = zip(asked, self._judge.score(asked), strict=True)
        return [None if marks is None else self._overruled(case, text, marks) for (case, text), marks in found]

    def compare(self, asked: Sequence[tuple[Case, str, str]]) -> list[Comparison]:
        """See `Judge`; the judge votes all the same, so that its agreement can be told."""
        found = zip(asked, self._judge.compare(asked), strict=True)
        return [Comparison(c.votes, c.invalid, self._decided(*one) or c.verified) for one, c in found]

    def _overruled(self, case: Case, text: str, marks: Marks) -> Marks:
        right = self._verifier(case, text)
        if right is None:
            return marks
        scale = next((criterion for criterion in self.criteria if criterion.name == CORRECTNESS), None)
        if scale is None:
            return marks
        return {**marks, CORRECTNESS: scale.lowest + right * (scale.highest - scale.lowest)}

    def _decided(self, case: Case, first: str, second: str) -> int:
        a, b = self._verifier(case, first), self._verifier(case, second)
        return 0 if a is None or b is None else (a > b) - (a < b)
