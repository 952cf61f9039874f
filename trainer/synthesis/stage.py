"""Lever 4: a tutor makes conversations for the stages that follow, by a recipe."""

import time
from pathlib import Path
from typing import Literal

from trainer.errors import CheckpointError, Interrupted
from trainer.files import write_text
from trainer.options import LACKING, TutorOptions
from trainer.sandbox import run
from trainer.stage import Outcome, Workspace
from trainer.synthesis.filters import Code
from trainer.synthesis.options import Own, SynthesisOptions
from trainer.synthesis.recipe import SynthesisError
from trainer.synthesis.report import Report
from trainer.synthesis.run import EXAMPLES, synthesise
from trainer.synthesis.seeds import many
from trainer.teachers.folder import identity
from trainer.tutors.checkpoint import OurTutor
from trainer.tutors.opened import opened
from trainer.tutors.port import Tutor

_SECONDS = "seconds"  # a file
_BLOCK = 16  # seeds between which it can be stopped: a model in this process is not fast


class Synthesise(SynthesisOptions):
    """A tutor answers, filters take away, and what stays is what a later `sft` without data of its own learns.

    With the pipeline's teacher as tutor the student learns from its words, and with itself from those of its own
    answers that a verifier finds right (rejection sampling: RFT, arXiv 2308.01825, section 3.3).

    Figures: `seeds`, `examples`, `yield` (examples of all answers that were asked for), `removed/FILTER` (of what a
    step or filter saw), the tutor's tokens and their cost.
    """

    kind: Literal["synthesise"] = "synthesise"

    def reads(self) -> dict[str, str]:
        """The recipe's sources, and tutors in folders.

        Raises:
            CorpusError, ProblemError, TeacherError: something is not there.
        """
        tutors = {"tutor": self.tutor, "judge": self.judge}
        folders = {name: who.folder for name, who in tutors.items() if isinstance(who, TutorOptions) and who.folder}
        return {"recipe": self.recipe.identity} | {name: identity(folder) for name, folder in folders.items()}

    def perform(self, workspace: Workspace) -> Outcome:
        """Make the examples, or carry on making them.

        Raises:
            SynthesisError: no example passed the filters.
            CheckpointError: no stage before it left the tutor.
            TutorError, CorpusError, ProblemError, SandboxError: see `trainer.synthesis.run`.
        """
        if any(isinstance(each, Code) for each in self.recipe.filters):
            run("")  # where no code can be shut in, that is said before anybody is asked
        out = workspace.directory.parent / "synthesis"
        seeds = many(self.recipe.seeds, self.recipe.seed, self.limit)
        tutor = _opened(self.tutor, workspace, out)
        judge = None if self.judge in (None, self.tutor) else _opened(self.judge, workspace, out)
        begun, spent = time.monotonic(), _spent(out)

        def told(report: Report) -> None:
            _note(out, spent + time.monotonic() - begun)
            workspace.report(report.seeds, seeds, self._figures(report))

        report = synthesise(
            self.recipe,
            tutor,
            out,
            judge=judge,
            limit=self.limit,
            block=_BLOCK,
            told=told,
            stop=workspace.should_stop,
        )
        if report.seeds < seeds:
            raise Interrupted(f"stopped after {report.seeds} of {seeds} seeds", advice="start it again to carry on")
        if not report.examples:
            raise SynthesisError(
                f"none of {seeds * self.recipe.samples} answers passed the recipe {report.recipe}: {_removals(report)}",
                advice=f"see what was removed: fulcrum synthesise inspect {out}; a better tutor, more samples or "
                "other filters may help",
            )
        return Outcome(
            stage=self.kind,
            data=out / EXAMPLES,
            before={},
            after=self._figures(report),
            tokens=0,
            parameters=0,
            seconds=_spent(out),
        )

    def _figures(self, report: Report) -> dict[str, float]:
        figures = {
            "seeds": float(report.seeds),
            "examples": float(report.examples),
            "yield": report.examples / max(1, report.seeds * self.recipe.samples),
            "tutor/prompt_tokens": float(report.prompt_tokens),
            "tutor/tokens": float(report.tokens),
            "tutor/cost": report.cost,
        }
        return figures | {
            f"removed/{name}": sieve.removed / sieve.seen for name, sieve in report.sieves.items() if sieve.seen
        }


def _opened(who: Own | TutorOptions | None, workspace: Workspace, out: Path) -> Tutor:
    assert who is not None
    device = workspace.ranks.device
    if isinstance(who, TutorOptions):
        return opened(who, out / "answers", device)
    checkpoint = workspace.start if who == "self" else workspace.checkpoints.get("teacher")
    if checkpoint is None:
        words, advice = LACKING["model" if who == "self" else "teacher"]
        raise CheckpointError(f"synthesise needs {words}", advice=advice)
    return OurTutor.open(checkpoint.directory, device=device)


def _spent(out: Path) -> float:
    """Seconds at work there, over every resumption, up to the last block."""
    file = out / _SECONDS
    return float(file.read_text()) if file.exists() else 0.0


def _note(out: Path, seconds: float) -> None:
    draft = out / f".{_SECONDS}.draft"
    write_text(draft, str(seconds))
    draft.replace(out / _SECONDS)


def _removals(report: Report) -> str:
    taken = {name: sieve for name, sieve in report.sieves.items() if sieve.removed}
    return ", ".join(f"{name} removed {sieve.removed} of {sieve.seen}" for name, sieve in taken.items()) or "no seeds"
