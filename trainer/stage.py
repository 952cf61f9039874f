"""What a stage is: a configuration that turns a checkpoint into a better one, with figures before and after."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from trainer.architecture import Architecture
from trainer.checkpoint import Checkpoint, Quantised, Rolling, seal
from trainer.data import Corpus
from trainer.engine import Report, Run, held_out
from trainer.model import HybridLM
from trainer.ranks import Ranks


class Outcome(BaseModel):
    """How a stage ended. Figures by name: `bits_per_byte` is held-out, lower is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    checkpoint: Path = Field(description="Relative to the pipeline's directory; named by its content")
    before: dict[str, float]
    after: dict[str, float]
    tokens: int
    parameters: int
    seconds: float = Field(description="Spent in training steps, over every resumption")


@dataclass(frozen=True)
class Workspace:
    """What a stage is given. `checkpoints` holds the results of earlier stages by kind; `start` is the model so far."""

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

    def run(self) -> Run:
        """A Run that saves under this stage's directory."""
        rolling = Rolling(self.directory, self.ranks)
        return Run(rolling, self.ranks, self.report, self.should_stop, self.save_seconds)

    def placed(self, model: HybridLM) -> HybridLM:
        """`model` on the device that is trained on."""
        return model.to(self.ranks.device)

    def seal(self, model: HybridLM, quantisation: Quantised | None = None) -> Checkpoint:
        """Keep a finished model; every rank has it, the first writes it."""
        return self.ranks.once(lambda: seal(model, self.sealed, self.corpus.tokenizer, quantisation))

    def held_out(self, model: HybridLM, sequence: int) -> dict[str, float]:
        """The figures every stage reports."""
        return held_out(model, self.corpus, sequence=sequence)


class ReadsNoFiles:
    """Of stages that read checkpoints and the corpus alone."""

    def reads(self) -> dict[str, str]:
        """See `Stage.reads`."""
        return {}


class Stage(Protocol):
    """A lever. Its fields are what determines it: an equal stage on equal inputs is not run twice."""

    changes_model: ClassVar[bool]
    """False for a stage that only prepares something for later ones, as the teacher does."""

    @property
    def kind(self) -> str:
        """Its name: what later stages find its checkpoint under."""
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
