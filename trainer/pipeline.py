"""Runs stages one after another. What is finished is not done again; what was interrupted is carried on."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint, Rolling
from trainer.data import Corpus
from trainer.engine import Run, never
from trainer.errors import CheckpointError, CorpusError
from trainer.extend import Extend
from trainer.files import fsync_directory, write_text
from trainer.preference.stage import Preference
from trainer.pretrain import Pretrain, Teacher
from trainer.ptq import Ptq
from trainer.qat import Qat
from trainer.ranks import Ranks
from trainer.recipe import Recipe
from trainer.rl.stage import Rl
from trainer.sft import Sft
from trainer.stage import Outcome, Stage, Workspace

AnyStage = Annotated[Teacher | Pretrain | Extend | Sft | Preference | Rl | Qat | Ptq, Field(discriminator="kind")]
"""A stage as it is written in JSON, told apart by `kind`."""

StageReport = Callable[[int, int, int, dict[str, float]], None]
"""(index of the stage, tokens done, tokens in all, metrics)."""


def silent(index: int, done: int, total: int, metrics: dict[str, float]) -> None:
    """A StageReport that nobody reads."""


def nothing(index: int, outcome: Outcome) -> None:
    """What happens after a stage unless somebody wants more."""


def default_stages(effort: float = 1.0) -> list[Teacher | Pretrain | Qat]:
    """Teacher, pretraining with distillation, 4-bit QAT; `effort` multiplies the tokens of each."""
    kinds: tuple[type[Teacher | Pretrain | Qat], ...] = (Teacher, Pretrain, Qat)
    plain = [kind() for kind in kinds]
    return [stage.model_copy(update={"tokens": max(1, round(stage.tokens * effort))}) for stage in plain]


def stages_of(fields: Sequence[Mapping[str, Any]]) -> list[AnyStage]:
    """Stages from their fields, `kind` among them.

    Raises:
        ValidationError: no such stage, or no such field of it.
    """
    return TypeAdapter(list[AnyStage]).validate_python(fields)


def run(
    stages: Sequence[Stage],
    architecture: Architecture,
    corpus_dir: Path,
    directory: Path,
    *,
    start: Checkpoint | None = None,
    report: StageReport = silent,
    finished: Callable[[int, Outcome], None] = nothing,
    should_stop: Callable[[], bool] = never,
    ranks: Ranks | None = None,
    save_seconds: float = Run.save_seconds,
) -> tuple[Checkpoint, list[Outcome]]:
    """Take `architecture` through `stages`; the last model's checkpoint, and how every stage ended.

    `start` is a sealed checkpoint of this architecture that the first stage begins with, where it needs one.

    Everything lies under `directory`; a stage's part of it is named by what determines the stage, so a changed stage
    starts anew and those before it are kept. `finished` is called for skipped stages too.

    Among `ranks` all call this alike, and see the same `directory`; the first one writes and reports.

    Raises:
        TrainerError: see trainer.errors; after Interrupted the same call carries on.
    """
    corpus = Corpus.open(corpus_dir)
    if corpus.vocab_size != architecture.vocab_size:
        raise CorpusError(
            f"the corpus has a vocabulary of {corpus.vocab_size}, the architecture one of {architecture.vocab_size}",
            advice="prepare the corpus with the architecture's vocab_size",
        )
    corpus.verify()
    ranks = ranks or Ranks.alone()
    workspace = Workspace(
        architecture, corpus, {}, start, directory, directory / "sealed", _unheard, should_stop, ranks, save_seconds
    )
    outcomes: list[Outcome] = []
    for index, stage in enumerate(stages):
        heard = _heard(report, index) if ranks.first else _unheard
        outcome = _once(stage, index, replace(workspace, report=heard), directory)
        checkpoint = Checkpoint(directory / outcome.checkpoint)
        workspace = replace(
            workspace,
            checkpoints={**workspace.checkpoints, stage.kind: checkpoint},
            start=checkpoint if stage.changes_model else workspace.start,
        )
        outcomes.append(outcome)
        if ranks.first:
            finished(index, outcome)
    if workspace.start is None:
        raise CheckpointError("no stage trained a model", advice="add a pretraining stage")
    return workspace.start, outcomes


def _once(stage: Stage, index: int, workspace: Workspace, directory: Path) -> Outcome:
    place = directory / f"{index:02d}-{stage.kind}-{_fingerprint(stage, workspace)[:16]}"
    ranks = workspace.ranks
    kept = ranks.once(lambda: _kept(place / "outcome.json", directory))
    if kept is None:
        outcome = _perform(stage, replace(workspace, directory=place / "training"))
        relative = outcome.model_copy(update={"checkpoint": outcome.checkpoint.relative_to(directory)})
        kept = ranks.once(lambda: _keep(relative, place))
    ranks.once(Rolling(place / "training").clear)
    return kept


def _perform(stage: Stage, workspace: Workspace) -> Outcome:
    """Ranks share the work of a stage that trains; any other is done by the first."""
    if isinstance(stage, Recipe):
        return stage.perform(workspace)
    return workspace.ranks.once(lambda: stage.perform(replace(workspace, ranks=Ranks.alone())))


def _keep(outcome: Outcome, place: Path) -> Outcome:
    place.mkdir(parents=True, exist_ok=True)
    draft = place / f".outcome.{os.getpid()}"
    write_text(draft, outcome.model_dump_json(indent=2))
    draft.rename(place / "outcome.json")
    fsync_directory(place)
    return outcome


def _kept(file: Path, directory: Path) -> Outcome | None:
    if not file.exists():
        return None
    try:
        outcome = Outcome.model_validate_json(file.read_text())
    except ValidationError as wrong:
        raise CheckpointError(f"{file} is damaged: {wrong}", advice="delete it to run its stage again") from wrong
    return outcome if (directory / outcome.checkpoint).is_dir() else None


def _fingerprint(stage: Stage, workspace: Workspace) -> str:
    known: dict[str, Any] = {
        "stage": json.loads(stage.model_dump_json()),
        "reads": stage.reads(),
        "architecture": workspace.architecture.hash,
        "corpus": workspace.corpus.meta["key"],
        "checkpoints": {kind: found.directory.name for kind, found in workspace.checkpoints.items()},
    }
    if workspace.start is not None:
        known["start"] = workspace.start.directory.name
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _heard(report: StageReport, index: int) -> Callable[[int, int, dict[str, float]], None]:
    return lambda done, total, metrics: report(index, done, total, metrics)


def _unheard(done: int, total: int, metrics: dict[str, float]) -> None:
    """Between stages nobody reports, and of several ranks only the first."""
