"""Runs stages one after another. What is finished is not done again; what was interrupted is carried on."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint
from trainer.data import Corpus
from trainer.dialogues.dialogues import fingerprint
from trainer.engine import Run, never
from trainer.errors import CheckpointError, CorpusError
from trainer.extend import Extend
from trainer.merge.stage import Merge
from trainer.once import once
from trainer.options import LACKING, lacking
from trainer.preference.stage import Preference
from trainer.pretrain import Pretrain, Teacher
from trainer.ptq import Ptq
from trainer.qat import Qat
from trainer.ranks import Ranks
from trainer.rl.stage import Rl
from trainer.sft import Sft
from trainer.stage import Outcome, Stage, Workspace
from trainer.synthesis.stage import Synthesise

AnyStage = Annotated[
    Teacher | Pretrain | Extend | Synthesise | Sft | Merge | Preference | Rl | Qat | Ptq, Field(discriminator="kind")
]
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
    _require_all(stages)
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
        outcome = once(stage, _place(stage, index, workspace), replace(workspace, report=heard))
        workspace = _followed(workspace, stage, outcome)
        outcomes.append(outcome)
        if ranks.first:
            finished(index, outcome)
    if workspace.start is None:
        raise CheckpointError("no stage trained a model", advice="add a pretraining stage")
    return workspace.start, outcomes


def _place(stage: Stage, index: int, workspace: Workspace) -> Path:
    return workspace.home / f"{index:02d}-{stage.kind}-{_fingerprint(stage, workspace)[:16]}"


def _followed(workspace: Workspace, stage: Stage, outcome: Outcome) -> Workspace:
    """With what the stage made, for the next."""
    if outcome.data is not None:
        workspace = replace(workspace, data=workspace.home / outcome.data)
    if outcome.checkpoint is None:
        return workspace
    checkpoint = Checkpoint(workspace.home / outcome.checkpoint)
    found_as = "teacher" if stage.makes == "teacher" else stage.kind
    return replace(
        workspace,
        checkpoints={**workspace.checkpoints, found_as: checkpoint},
        start=checkpoint if stage.makes == "model" else workspace.start,
    )


def _require_all(stages: Sequence[Stage]) -> None:
    """That stages go together, before any is performed. That a model is missing, a stage says in its own words."""
    missing = lacking(stages, have=("model",))
    if missing is None:
        return
    position, what = missing
    words, advice = LACKING[what]
    raise CheckpointError(f"stage {position + 1}, {stages[position].kind}, needs {words}", advice=advice)


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
    if workspace.data is not None:
        known["data"] = fingerprint([workspace.data])
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _heard(report: StageReport, index: int) -> Callable[[int, int, dict[str, float]], None]:
    return lambda done, total, metrics: report(index, done, total, metrics)


def _unheard(done: int, total: int, metrics: dict[str, float]) -> None:
    """Between stages nobody reports, and of several ranks only the first."""
