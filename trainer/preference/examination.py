"""How good a model has become: its answers to held-out prompts against those of the model that a stage began with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.chat import ChatTemplate
from trainer.checkpoint import Checkpoint
from trainer.preference.judges import Case, Judge, total
from trainer.preference.prompts import Prompts
from trainer.preference.rollouts import of_student
from trainer.preference.table import Table
from trainer.stage import Workspace

if TYPE_CHECKING:
    from trainer.preference.stage import Preference

_SEED = 1_000_000_007  # beside the stage's: of no round's answers


@dataclass
class Examination:
    """The held-out figures of a model, against the one that the stage began with."""

    stage: "Preference"
    workspace: Workspace
    template: ChatTemplate
    prompts: Prompts
    table: Table
    _first: list[str] | None = None

    @property
    def begun(self) -> Checkpoint:
        """The model that the stage began with."""
        assert self.workspace.start is not None
        return self.workspace.start

    def figures(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Bits per byte; and where prompts are held out the win rate, and the mean scores of examiner and judge."""
        found = self.workspace.held_out(self.workspace.placed(checkpoint.model()), self.stage.sequence)
        if not self.prompts.held_out:
            return found
        first = self._first = self._first or self._answers(self.begun)
        answers = first if checkpoint == self.begun else self._answers(checkpoint)
        asked = [case for case in self.prompts.held_out for _ in range(self.stage.samples)]
        votes = self.table.examiner.compare(list(zip(asked, answers, first, strict=True)))
        won = sum((1 + vote.preferred) / 2 for vote in votes)
        judge, examiner = self.table.judge, self.table.examiner
        found |= {"win_rate": won / len(votes), "examiner_score": _mean_score(examiner, asked, answers)}
        return found if judge is None else found | {"judge_score": _mean_score(judge, asked, answers)}

    def _answers(self, checkpoint: Checkpoint) -> list[str]:
        stage = self.stage
        groups = of_student(
            self.workspace.placed(checkpoint.model()),
            self.workspace.corpus.tokenizer,
            self.template,
            self.prompts.held_out,
            stage.sampling(stage.seed + _SEED),
            stage.samples,
            self.table.accounts.answered,
        )
        return [answer.text for group in groups for answer in group]


def _mean_score(judge: Judge, cases: Sequence[Case], answers: Sequence[str]) -> float:
    found = judge.score(list(zip(cases, answers, strict=True)))
    totals = [total(marks, judge.criteria) for marks in found if marks is not None]
    return sum(totals) / max(1, len(totals))
