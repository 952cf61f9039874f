"""What a stage is: a configuration that turns a checkpoint into a better one, with figures before and after."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from trainer.architecture import Architecture
from trainer.chat import OwnTemplate
from trainer.checkpoint import Checkpoint, Quantised, Rolling, seal
from trainer.data import Corpus
from trainer.engine import Report, Run, held_out
from trainer.model import HybridLM
from trainer.options import Combined
from trainer.ranks import Ranks


class Outcome(BaseModel):
    """How a stage ended. Figures by name: `bits_per_byte` is held-out, lower is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    checkpoint: Path | None = Field(
        default=None, description="Relative to the pipeline's directory; named by its content"
    )
    data: Path | None = Field(default=None, description="Conversations for later stages, likewise relative")
    before: dict[str, float]
    after: dict[str, float]
    tokens: int = Field(description="That were trained on")
    parameters: int = Field(description="Of what was trained; 0 where nothing was")
    seconds: float = Field(description="Spent in training steps or with a tutor, over every resumption")

    def files(self) -> dict[str, Path]:
        """What it left, by field."""
        found = {"checkpoint": self.checkpoint, "data": self.data}
        return {name: path for name, path in found.items() if path is not None}


@dataclass(frozen=True)
class Workspace:
    """What a stage is given. `start` is the model so far; `checkpoints` holds the results of earlier stages, by kind,
    and as `teacher` what any stage made the teacher; `data` is the conversations that the last stage of such made."""

    architecture: Architecture
    corpus: Corpus
    checkpoints: Mapping[str, Checkpoint]
    start: Checkpoint | None
    directory: Path
    sealed: Path
    report: Report
    should_stop: Callable[[], bool]
    ranks: Ranks = field(default_factory=Ranks.alone)
    save_seconds: float = Run.save_seconds
    data: Path | None = None

    @property
    def home(self) -> Path:
        """The pipeline's directory, which outcomes are relative to."""
        return self.sealed.parent

    def run(self) -> Run:
        """A Run that saves under this stage's directory."""
        rolling = Rolling(self.directory, self.ranks)
        return Run(rolling, self.ranks, self.report, self.should_stop, self.save_seconds)

    def placed(self, model: HybridLM) -> HybridLM:
        """`model` on the device that is trained on."""
        return model.to(self.ranks.device)

    def seal(self, model: HybridLM, quantisation: Quantised | None = None) -> Checkpoint:
        """Keep a finished model, with the chat template of what it began as; every rank has it, the first writes it."""

        def kept() -> Checkpoint:
            template = OwnTemplate.of(self.start.directory) if self.start else None
            return seal(model, self.sealed, self.corpus.tokenizer, quantisation, template=template)

        return self.ranks.once(kept)

    def held_out(self, model: HybridLM, sequence: int) -> dict[str, float]:
        """The figures every stage reports."""
        return held_out(model, self.corpus, sequence=sequence)


class ReadsNoFiles:
    """Of stages that read checkpoints and the corpus alone."""

    def reads(self) -> dict[str, str]:
        """See `Stage.reads`."""
        return {}


class Stage(Combined, Protocol):
    """A lever. Its fields are what determines it: an equal stage on equal inputs is not run twice."""

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def reads(self) -> dict[str, str]:
        """By name, the hashes of what it reads beside checkpoints and corpus; with other content it is another stage.

        Raises:
            TrainerError: something is not there, or cannot be read.
        """
        ...

    def model_dump_json(self) -> str:
        """Its fields (pydantic's)."""
        ...

    def perform(self, workspace: Workspace) -> Outcome:
        """Do it, or carry on doing it.

        Raises:
            TrainerError: see trainer.errors; Interrupted when `workspace.should_stop` said so.
        """
        ...
