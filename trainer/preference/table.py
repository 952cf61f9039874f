"""Who sits at the table of a training on preferences: judge, examiner and tutor, as its options name them."""

from dataclasses import dataclass
from pathlib import Path

from trainer.options import PreferenceOptions, Rule, RuleName, TutorOptions
from trainer.preference.accounts import Accounts
from trainer.preference.judges import Case, Judge, RuleJudge, SpokenJudge, Verified, Verifier, verifiable
from trainer.preference.rows import PreferenceError
from trainer.rewards import Tasks
from trainer.rewards.competition import agrees
from trainer.stage import Workspace
from trainer.tutors.checkpoint import OurTutor
from trainer.tutors.opened import opened
from trainer.tutors.port import Tutor

_PLAIN: tuple[RuleName, ...] = ("correct", "exact", "number", "repetition", "profanity")


@dataclass(frozen=True)
class Table:
    """Judge, examiner and tutor, and the verifier that overrules the judge: a language model, no rules.

    `judge` is None where pairs are given, `tutor` where there is none.
    """

    judge: Judge | None
    examiner: Judge
    tutor: Tutor | None
    overruling: Verifier | None
    accounts: Accounts

    @classmethod
    def of(cls, options: PreferenceOptions, workspace: Workspace, accounts: Accounts) -> "Table":
        """Those that the options name; endpoints keep what they said under `answers` of the stage.

        Raises:
            TutorError, CheckpointError: a model that cannot be opened.
            PreferenceError: the tutor is the teacher of a pipeline that has none.
        """
        answers = workspace.directory.parent / "answers"
        verifier = _heard(verifier_of(options), accounts)

        def judge(seat: str, rules: tuple[Rule, ...], model: TutorOptions | None) -> Judge:
            if model is None:
                return RuleJudge(rules, verifier)
            tutor = accounts.seated(seat, opened(model, answers, workspace.ranks.device))
            return Verified(SpokenJudge(tutor, votes=options.votes, heard=accounts.heard), verifier)

        tutor = None if options.tutor is None else _tutor(options.tutor, workspace, answers)
        return cls(
            judge=None if options.pairs is not None else judge("judge", options.judge, options.judge_model),
            examiner=judge("examiner", options.examiner or _unused(options), options.examiner_model),
            tutor=None if tutor is None else accounts.seated("tutor", tutor),
            overruling=None if options.judge_model is None else verifier,
            accounts=accounts,
        )


def verifier_of(options: PreferenceOptions) -> Verifier:
    """Who says how right an answer is: the tasks themselves, math-verify, or the last number and the very words."""
    if options.tasks is not None:
        return _by(options.tasks)
    return _mathematics if options.verifier == "math" else verifiable


def _tutor(named: TutorOptions | str, workspace: Workspace, answers: Path) -> Tutor:
    if isinstance(named, TutorOptions):
        return opened(named, answers, workspace.ranks.device)
    teacher = workspace.checkpoints.get(named)
    if teacher is None:
        raise PreferenceError(
            f"the tutor is to be the pipeline's {named}, and no stage before this one is a {named}",
            advice=f"put a stage `{named}` before it, or name a tutor by its folder or url",
        )
    return OurTutor.open(teacher.directory, device=workspace.ranks.device)


def _by(tasks: Tasks) -> Verifier:
    def verified(case: Case, text: str) -> float | None:
        return None if case.problem is None else tasks.score(case.problem, text)

    return verified


def _mathematics(case: Case, text: str) -> float | None:
    return None if case.expected is None else float(agrees(case.expected, text))


def _heard(verifier: Verifier, accounts: Accounts) -> Verifier:
    """`verifier`, which may take seconds for an answer."""

    def verified(case: Case, text: str) -> float | None:
        accounts.heard()
        return verifier(case, text)

    return verified


def _unused(options: PreferenceOptions) -> tuple[Rule, ...]:
    used = {rule.rule for rule in options.judge}
    return tuple(Rule(rule=name) for name in _PLAIN if name not in used)
