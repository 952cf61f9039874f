"""Lever 6: rounds of answers, preferences between them, and training on those."""

from typing import Literal

from pydantic import Field

from trainer.chat import template_of
from trainer.checkpoint import Checkpoint
from trainer.errors import CheckpointError
from trainer.generation import SamplingParams
from trainer.options import PreferenceOptions, TutorOptions
from trainer.preference.accounts import Accounts, summed
from trainer.preference.examination import Examination
from trainer.preference.kept import sum_of
from trainer.preference.prompts import Prompts, obstacle_of
from trainer.preference.round import Ended, Round
from trainer.preference.rows import PreferenceError
from trainer.preference.table import Table
from trainer.recipe import Recipe
from trainer.stage import Outcome, Workspace
from trainer.teachers.folder import identity


class Preference(Recipe, PreferenceOptions):
    """Trains on pairs of answers: its own of each round, as a judge prefers them, or given ones.

    A step reads `batch` pairs, each of at most `sequence` tokens with its prompt twice; `tokens` are shared by the
    rounds. In each the policy that answered is the reference.

    A round in which the judge tells no answers apart leaves the model as it is: `pairs` is 0.

    Before and after: bits per byte (what is forgotten), the win rate against the model that the stage began with, by an
    examiner that chose no pair, and the mean score of both. After: the reward margin and accuracy on the last round's
    pairs, log-ratios to its reference in nats, the figures of its pairs and judge, and what judge, examiner and tutor
    were asked in all.
    """

    kind: Literal["preference"] = "preference"
    tokens: int = Field(default=400_000, ge=1)
    batch: int = Field(default=16, ge=1, description="Pairs a step")
    sequence: int = Field(default=256, ge=16, description="Most tokens of a pair: its prompt twice, and both answers")
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decay: float = Field(default=1.0, ge=0, le=1)

    def reads(self) -> dict[str, str]:
        """What the files, the problems and the folders of models hold that it reads.

        Raises:
            PreferenceError, ProblemError, TeacherError: one cannot be read.
        """
        found = {str(path): sum_of(path) for path in (self.prompts, self.pairs) if path is not None}
        for model in (self.judge_model, self.examiner_model, self.tutor):
            if isinstance(model, TutorOptions) and model.folder is not None:
                found[str(model.folder)] = identity(model.folder)
        known = self.tasks.identity() if self.tasks is not None else ""
        return found | ({"tasks": known} if known else {})

    def perform(self, workspace: Workspace) -> Outcome:
        """Go through the rounds, or carry on with them.

        Raises:
            CheckpointError: no stage before it left a model.
            PreferenceError: prompts or pairs that cannot be used, a judge without verdicts, or no teacher to be tutor.
            ProblemError: problems cannot be had.
            TutorError: a language model cannot be asked.
            Interrupted: `workspace.should_stop` said so.
        """
        if workspace.start is None:
            raise CheckpointError("there is no model to train", advice="put a pretraining stage before it")
        template = template_of(workspace.start.directory, workspace.corpus.tokenizer)
        prompts = Prompts.of(self, self.seed, obstacle_of(template, self.sequence))
        self._require_answers(prompts)
        checkpoint, ends = workspace.start, list[Ended]()

        def report(metrics: dict[str, float]) -> None:
            workspace.report(self._read * len(ends), self._read * self.turns, metrics)

        table = Table.of(self, workspace, Accounts(report, workspace.should_stop))
        for number in range(self.turns):
            ends.append(Round(self, number, checkpoint, prompts, table, template, workspace).perform())
            checkpoint = Checkpoint(workspace.sealed / ends[-1].checkpoint)
        return self._outcome(checkpoint, ends, Examination(self, workspace, template, prompts, table))

    def of_round(self, number: int) -> Recipe:
        """How a round trains."""
        known = {name: getattr(self, name) for name in Recipe.model_fields}
        return Recipe.model_validate(known | {"tokens": max(1, self.tokens // self.turns), "seed": self.seed + number})

    def sampling(self, seed: int) -> SamplingParams:
        """How answers are drawn."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)

    @property
    def turns(self) -> int:
        """How many rounds there are: given pairs are one."""
        return 1 if self.pairs is not None else self.rounds

    @property
    def _read(self) -> int:
        """Tokens that a round reads at most."""
        return self.of_round(0).steps * self.batch * self.sequence

    def _outcome(self, checkpoint: Checkpoint, ends: list[Ended], examination: Examination) -> Outcome:
        ranks, begun, accounts = examination.workspace.ranks, examination.begun, examination.table.accounts
        asked = accounts.figures()
        after = ranks.once(lambda: examination.figures(checkpoint))
        before = ranks.once(lambda: examination.figures(begun))
        counted = summed([*(end.figures for end in ends), accounts.since(asked)])
        left_out = {"prompts_left_out": float(examination.prompts.left_out)}
        return Outcome(
            stage=self.kind,
            checkpoint=checkpoint.directory,
            before=before,
            after=after | ends[-1].figures | counted | left_out,
            tokens=self._read * sum(end.learnt for end in ends),
            parameters=checkpoint.architecture.parameters,
            seconds=sum(end.seconds for end in ends),
        )

    def _require_answers(self, prompts: Prompts) -> None:
        compares = {rule.rule for rule in self.judge} <= {"correct", "exact", "number"}
        if self.judge and compares and all(case.expected is None for case in prompts.learnt):
            raise PreferenceError(
                "the judge compares answers with the right one, and no prompt has one",
                advice='give prompts with an "answer", or another judge',
            )
