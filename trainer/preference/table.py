"""Who sits at the table of a training on preferences: judge, examiner and tutor, as its options name them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.options import PreferenceOptions, Rule, TutorOptions
from trainer.preference.judges import Judge, RuleJudge, SpokenJudge, Verified, verifiable
from trainer.tutors.opened import opened
from trainer.tutors.port import Tutor

_PLAIN: tuple[Literal["exact", "number", "repetition", "profanity"], ...] = (
    "exact",
    "number",
    "repetition",
    "profanity",
)


@dataclass(frozen=True)
class Table:
    """`judge` is None where pairs are given, `tutor` where there is none."""

    judge: Judge | None
    examiner: Judge
    tutor: Tutor | None

    @classmethod
    def of(cls, options: PreferenceOptions, answers: Path) -> "Table":
        """Those that the options name; endpoints keep what they said under `answers`.

        Raises:
            TutorError, CheckpointError: a model that cannot be opened.
        """
        rules = options.examiner or _unused(options)
        return cls(
            judge=_judge(options.judge, options.judge_model, options.votes, answers),
            examiner=_judge(rules, options.examiner_model, options.votes, answers) or RuleJudge(rules),
            tutor=None if options.tutor is None else opened(options.tutor, answers),
        )


def _judge(rules: tuple[Rule, ...], model: TutorOptions | None, votes: int, answers: Path) -> Judge | None:
    """A language model is overruled where an answer can be verified."""
    if model is not None:
        return Verified(SpokenJudge(opened(model, answers), votes=votes), verifiable)
    return RuleJudge(rules) if rules else None


def _unused(options: PreferenceOptions) -> tuple[Rule, ...]:
    used = {rule.rule for rule in options.judge}
    return tuple(Rule(rule=name) for name in _PLAIN if name not in used)
