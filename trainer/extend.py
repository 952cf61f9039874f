"""Lever 3: a model's context is stretched, and the model trained on until it uses it."""

from typing import Literal

from pydantic import Field, model_validator

from trainer import memory
from trainer.architecture import Architecture, Attention, Yarn
from trainer.curriculum import Curriculum
from trainer.data import Corpus
from trainer.engine import hard_labels, train
from trainer.errors import CheckpointError
from trainer.evaluate import Recall, Text, bits_by_position, episodes, recall, task
from trainer.evaluate.retrieval import Kind
from trainer.model import HybridLM
from trainer.options import ExtendOptions
from trainer.recipe import Recipe
from trainer.stage import Outcome, ReadsNoFiles, Workspace

_KINDS: tuple[Kind, ...] = ("needle", "key_value")
_EVALUATED = 8 * 4096  # tokens of text behind each figure, at least one window
_EPISODES = 16


class Extend(Recipe, ExtendOptions, ReadsNoFiles):
    """Continues training at `sequence` tokens a window, under rotary tables made for them.

    yarn: as arXiv 2309.00071, of the length the model was first trained on, however often it was stretched before.
    base: a larger RoPE base (arXiv 2309.16039); `theta`, or what keeps the slowest pair within the turns it knows.
    plain: the tables stay as they are. Convolutions have no positions, and are the same under all three.

    Before and after: bits per byte at the original length and at the new one, and recall at the new one, in all and by
    quarters of the context.
    """

    kind: Literal["extend"] = "extend"
    tokens: int = Field(default=2_000_000, ge=1)
    batch: int = Field(default=1, ge=1, description="Windows of the longest length a step; shorter ones are more")
    sequence: int = Field(default=32_768, ge=64, description="The new context: tokens of the longest windows")
    learning_rate: float = Field(default=3e-3, gt=0)
    decay: float = Field(default=1.0, ge=0, le=1)
    checkpoint_activations: bool = True

    @model_validator(mode="after")
    def _lengths_fit(self) -> "Extend":
        self.check_lengths(self.batch, self.sequence)
        return self

    def stretched(self, architecture: Architecture) -> Architecture:
        """The architecture under the tables of the new context.

        Raises:
            CheckpointError: the original length is not known, or not the one that this was stretched from.
        """
        original = self.original_of(architecture)
        match self.method:
            case "yarn":
                if self.sequence <= original:
                    raise CheckpointError(
                        f"{self.sequence} tokens are no longer context than the original {original}",
                        advice="extend to a longer sequence",
                    )
                change: dict[str, object] = {"yarn": Yarn(factor=self.sequence / original, original=original)}
            case "base":
                if architecture.yarn is not None:
                    raise CheckpointError(
                        "the model is stretched by YaRN", advice="raise the base of an unstretched one"
                    )
                factor = max(1.0, self.sequence / original)
                change = {"rope_theta": self.theta or raised(architecture, factor)}
            case "plain":
                change = {}
        return Architecture.model_validate(architecture.model_copy(update=change).model_dump())

    def original_of(self, architecture: Architecture) -> int:
        """The length that the model was first trained on: what all stretching is relative to."""
        known = None if architecture.yarn is None else architecture.yarn.original
        if known is not None and self.original not in (None, known):
            raise CheckpointError(
                f"the model was stretched from {known} tokens, not from {self.original}",
                advice="leave `original` out: YaRN is relative to the first length, and is not chained",
            )
        found = known or self.original
        if found is None:
            raise CheckpointError(
                "a model does not say how long its context was in training", advice="say `original`, in tokens"
            )
        return found

    def perform(self, workspace: Workspace) -> Outcome:
        """Stretch and train the model.

        Raises:
            CheckpointError: no stage before it left a model; see `stretched`.
            NotEnoughMemory: before anything is trained.
        """
        if workspace.start is None:
            raise CheckpointError("there is no model to extend", advice="put a pretraining stage before it")
        model = workspace.placed(workspace.start.model())
        architecture, original = self.stretched(model.architecture), self.original_of(model.architecture)
        needed = memory.of_step(architecture, batch=self.batch, sequence=self.sequence)
        memory.require(needed, f"a step of {self.batch} x {self.sequence} tokens")
        memory.return_large_blocks()
        run = workspace.run()
        before = self.figures(model, workspace, original)
        stretched = workspace.placed(HybridLM(architecture))
        stretched.load_state_dict(model.state_dict())
        train(stretched, self.corpus(workspace.corpus), self, hard_labels, run)
        sealed = workspace.seal(stretched)
        return Outcome(
            stage=self.kind,
            checkpoint=sealed.directory,
            before=before,
            after=self.figures(stretched, workspace, original) | {"memory_bytes": needed},
            tokens=self.steps * self.batch * self.sequence,
            parameters=architecture.parameters,
            seconds=run.seconds,
        )

    def corpus(self, corpus: Corpus) -> Curriculum:
        """A prepared corpus as this stage reads it."""
        return Curriculum(
            corpus, self.curriculum, self.steps, long_share=self.long_share, retrieval_share=self.retrieval_share
        )

    def figures(self, model: HybridLM, workspace: Workspace, original: int) -> dict[str, float]:
        """Held-out bits per byte at both lengths, and recall at the new one."""
        text = Text.held_out(workspace.corpus, max(_EVALUATED, 2 * self.sequence))
        found: dict[str, float] = {}
        for name, length in (("bits_per_byte", original), ("bits_per_byte/long", self.sequence)):
            found[name], _ = bits_by_position(model, text, length=length, windows=max(1, _EVALUATED // length))
        for kind in _KINDS:
            asked = episodes(text, task(kind, self.sequence), count=_EPISODES, length=self.sequence, seed=self.seed)
            found |= _named(kind, recall(model, asked))
        return found


def raised(architecture: Architecture, factor: float) -> float:
    """The base whose slowest pair turns as far over `factor` times the context as before over the whole of it."""
    head_dims = [block.head_dim for block in architecture.blocks if isinstance(block, Attention)]
    if not head_dims:
        return architecture.rope_theta
    head_dim = max(head_dims)
    return float(architecture.rope_theta * factor ** (head_dim / max(2, head_dim - 2)))


def _named(kind: str, found: Recall) -> dict[str, float]:
    depths = {f"recall/{kind}/quarter_{i}": v for i, v in enumerate(found.by_depth, start=1) if v is not None}
    return {f"recall/{kind}": found.recall, **depths}
