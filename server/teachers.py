"""Teachers that users name by a run: found when a run is asked for, and again, as a folder, when it trains."""

from pathlib import Path

from sqlalchemy.orm import Session

from server.database import Database
from server.errors import NotFound, TeacherLost, TeacherNotReady, TeacherUnfit
from server.ledger import stages_of
from server.runs import StageRequest, WorkState
from server.stage_options import RunName
from server.tables import RunRow
from trainer.architecture import Architecture

_ROUNDED = ("qat", "ptq")  # trained for another grid than the student's: no teacher unless one asks for it


def require(session: Session, stages: tuple[StageRequest, ...], student: Architecture) -> None:
    """Every teacher that `stages` name can teach `student`, as far as our tables know.

    Raises:
        NotFound: no such run.
        TeacherNotReady: it has not ended, or has trained nothing of the kind.
        TeacherUnfit: its vocabulary is not the student's.
    """
    for stage in stages:
        if stage.teacher is None:
            continue
        row = _row(session, stage.teacher)
        _checkpoint(session, row, stage.teacher)
        taught = Architecture.model_validate_json(row.architecture_json).vocab_size
        if taught != student.vocab_size:
            raise TeacherUnfit(
                f"the model of run {row.id} has a vocabulary of {taught}, the student one of {student.vocab_size}",
                advice="Name a run of a search with the same tokenizer.",
            )


def folder(database: Database, home: Path, name: RunName) -> Path:
    """Where the checkpoint of a teacher lies. A run that has ended stays as it is, so it is always the same.

    Raises:
        NotFound, TeacherNotReady: as for `require`.
        TeacherLost: it is not on this host.
    """
    with database.read() as session:
        row = _row(session, name)
        found = home / "runs" / row.id / _checkpoint(session, row, name)
    if not found.is_dir():
        raise TeacherLost(f"the checkpoint of run {name.run} is not at {found}", advice="Name another run as teacher.")
    return found


def _row(session: Session, name: RunName) -> RunRow:
    row = session.get(RunRow, name.run)
    if row is None:
        raise NotFound(f"there is no run {name.run} to teach", advice="List them: `fulcrum run list`, or GET /v1/runs.")
    return row


def _checkpoint(session: Session, row: RunRow, name: RunName) -> str:
    """The last of the stage that is named, or as `teacher` of any that made the teacher; else the last full-precision
    model, or what else was trained."""
    if not WorkState(row.state).final:
        raise TeacherNotReady(
            f"run {row.id} is {row.state}: what it trains is not settled",
            advice=f"Wait until it has ended: fulcrum run watch {row.id}",
        )
    stages = stages_of(session, row.id)
    found_as = [(s.name if s.makes == "model" else s.makes, s.checkpoint) for s in stages if s.checkpoint is not None]
    if name.stage is not None:
        found = [checkpoint for known_as, checkpoint in found_as if known_as == name.stage]
    else:
        models = [(known_as, checkpoint) for known_as, checkpoint in found_as if known_as != "teacher"]
        full = [checkpoint for kind, checkpoint in models if kind not in _ROUNDED]
        found = full or [checkpoint for _, checkpoint in models]
    if not found:
        known = ", ".join(known_as for known_as, _ in found_as) or "nothing"
        raise TeacherNotReady(
            f"run {row.id} has trained no {name.stage or 'model'}",
            advice=f"It has trained {known}; name what it has as run:{row.id}/STAGE.",
        )
    return found[-1]
