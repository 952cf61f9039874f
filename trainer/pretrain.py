"""Pretraining: a teacher on hard labels, then the model itself, distilled from that teacher."""

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from trainer import distilled
from trainer.architecture import Architecture, Attention
from trainer.engine import hard_labels, train
from trainer.errors import TeacherError
from trainer.model import HybridLM
from trainer.options import DistilOptions, TeacherOptions
from trainer.recipe import Recipe
from trainer.stage import Outcome, ReadsNoFiles, Workspace
from trainer.step import Loss
from trainer.teachers.cache import Plan, TeacherCache, teach
from trainer.teachers.folder import identity, open_teacher
from trainer.teachers.teacher import LiveTeacher


class Teacher(Recipe, TeacherOptions, ReadsNoFiles):
    """Trains a wider model of the same blocks on hard labels; later stages learn from it."""

    kind: Literal["teacher"] = "teacher"
    tokens: int = Field(default=480_000, ge=1)

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the teacher."""
        model = HybridLM(widened(workspace.architecture, self.widen), seed=self.seed)
        return _pretrain(self, model, hard_labels, workspace)


class Pretrain(Recipe, DistilOptions):
    """Trains the model on hard labels and, where there is a teacher, on what it predicts.

    It goes on from the model that there is, and begins one where there is none.
    """

    kind: Literal["pretrain"] = "pretrain"
    tokens: int = Field(default=320_000, ge=1)

    def reads(self) -> dict[str, str]:
        """The teacher that is named."""
        return {} if self.teacher is None else {"teacher": identity(self.teacher)}

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the model.

        Raises:
            TeacherError: see `trainer.teachers.folder.open_teacher` and `trainer.teachers.cache`.
        """
        start = workspace.start
        model = HybridLM(workspace.architecture, seed=self.seed) if start is None else start.model()
        return _pretrain(self, model, self._loss(workspace), workspace)

    def _loss(self, workspace: Workspace) -> Loss:
        stage = workspace.checkpoints.get("teacher")
        folder = self.teacher or (stage.directory if stage else None)
        if folder is None or self.distillation == 0:
            return hard_labels
        teacher = open_teacher(folder, workspace.corpus)
        if self.beta is not None:
            whole = _with_whole_vocabulary(teacher, workspace.corpus.vocab_size)
            return distilled.from_whole(whole, self.distillation, self.beta, self.temperature)
        if isinstance(teacher, TeacherCache):
            teacher.require(self._plan(folder, workspace), self._windows)
        elif self.cached:
            teacher = self._remembered(teacher, self._plan(folder, workspace), workspace)
        return distilled.from_top_k(teacher, self.distillation, self.top_k, self.temperature)

    @property
    def _windows(self) -> int:
        """That training may read: for each batch that a spike makes it pass over, one from further on."""
        passed = self.spikes.most * self.spikes.every if self.spikes else 0
        return (self.steps + passed) * self.batch

    def _plan(self, folder: Path, workspace: Workspace) -> Plan:
        corpus = workspace.corpus
        return Plan(
            corpus=corpus.meta["key"],
            teacher=identity(folder),
            vocab_size=corpus.vocab_size,
            sequence=self.sequence,
            seed=self.seed,
            top_k=self.top_k,
        )

    def _remembered(self, teacher: LiveTeacher, plan: Plan, workspace: Workspace) -> TeacherCache:
        # Beside the sealed checkpoints, not in the stage's own place: another student finds it there.
        kept = workspace.sealed.with_name("taught") / plan.key

        def report(done: int, total: int) -> None:
            workspace.report(done * self.sequence, total * self.sequence, {})

        def fill() -> None:
            teach(
                teacher,
                workspace.corpus,
                kept,
                plan,
                windows=self._windows,
                batch=self.batch,
                report=report,
                should_stop=workspace.should_stop,
            )

        workspace.ranks.once(fill)
        return TeacherCache.open(kept)


def widened(architecture: Architecture, factor: float) -> Architecture:
    """The same blocks, `factor` wider: widths to the nearest multiple of 32, heads up to the next whole groups."""

    def wide(width: int) -> int:
        return 32 * round(width * factor / 32)

    def more_heads(block: Attention) -> Attention:
        # Heads come in multiples of kv_heads, and heads x head_dim in multiples of 32.
        unit = math.lcm(block.kv_heads, 32 // math.gcd(32, block.head_dim))
        return block.model_copy(update={"heads": unit * math.ceil(block.heads * factor / unit)})

    blocks = [more_heads(block) if isinstance(block, Attention) else block for block in architecture.blocks]
    fields = architecture.model_dump() | {
        "width": wide(architecture.width),
        "ffn_width": wide(architecture.ffn_width),
        "blocks": [block.model_dump() for block in blocks],
    }
    return Architecture.model_validate(fields)


def _with_whole_vocabulary(teacher: LiveTeacher | TeacherCache, vocab_size: int) -> LiveTeacher:
    if isinstance(teacher, TeacherCache):
        raise TeacherError(
            f"{teacher.directory} holds a teacher's top K alone, and beta compares whole vocabularies",
            advice="name the teacher's own folder, or leave beta out",
        )
    if teacher.vocab_size != vocab_size:
        raise TeacherError(
            f"{teacher.name} predicts {teacher.vocab_size} ids, and the corpus has {vocab_size}",
            advice="leave beta out: a top K of fewer ids can be compared",
        )
    return teacher


def _pretrain(stage: Teacher | Pretrain, model: HybridLM, loss: Loss, workspace: Workspace) -> Outcome:
    run = workspace.run()
    before = workspace.held_out(workspace.placed(model), stage.sequence)
    train(model, workspace.corpus, stage, loss, run)
    sealed = workspace.seal(model)
    return Outcome(
        stage=stage.kind,
        checkpoint=sealed.directory,
        before=before,
        after=workspace.held_out(model, stage.sequence),
        tokens=stage.steps * stage.batch * stage.sequence,
        parameters=model.architecture.parameters,
        seconds=run.seconds,
    )
