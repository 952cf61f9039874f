"""A stage is done once: how it ended is kept in its place, and whoever comes by again finds it there."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from trainer.checkpoint import Rolling
from trainer.errors import CheckpointError
from trainer.files import fsync_directory, write_text
from trainer.ranks import Ranks
from trainer.recipe import Recipe
from trainer.stage import Outcome, Stage, Workspace

T = TypeVar("T")


def once(stage: Stage, place: Path, workspace: Workspace) -> Outcome:
    """How `stage` ended in `place`, which nothing else has; it is performed unless it was before.

    Raises:
        TrainerError: see `Stage.perform`; CheckpointError when what was kept is damaged.
    """
    ranks, home = workspace.ranks, workspace.home
    kept = ranks.once(lambda: _kept(place / "outcome.json", home))
    if kept is None:
        outcome = _perform(stage, replace(workspace, directory=place / "training"))
        made = {name: path.relative_to(home) for name, path in outcome.files().items()}
        kept = ranks.once(lambda: _keep(outcome.model_copy(update=made), place))
    ranks.once(Rolling(place / "training").clear)
    return kept


def _perform(stage: Stage, workspace: Workspace) -> Outcome:
    """Ranks share the work of a stage that trains; any other is done by the first."""
    if isinstance(stage, Recipe):
        return stage.perform(workspace)
    return first_alone(workspace, stage.perform)


def first_alone(workspace: Workspace, do: Callable[[Workspace], T]) -> T:
    """What the first of several ranks does while the others wait, on its own device."""
    ranks = workspace.ranks
    return ranks.once(lambda: do(replace(workspace, ranks=Ranks(device=ranks.device))))


def _keep(outcome: Outcome, place: Path) -> Outcome:
    place.mkdir(parents=True, exist_ok=True)
    draft = place / f".outcome.{os.getpid()}"
    write_text(draft, outcome.model_dump_json(indent=2))
    draft.rename(place / "outcome.json")
    fsync_directory(place)
    return outcome


def _kept(file: Path, home: Path) -> Outcome | None:
    if not file.exists():
        return None
    try:
        outcome = Outcome.model_validate_json(file.read_text())
    except ValidationError as wrong:
        raise CheckpointError(f"{file} is damaged: {wrong}", advice="delete it to run its stage again") from wrong
    return outcome if all((home / path).exists() for path in outcome.files().values()) else None
