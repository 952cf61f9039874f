"""Pretraining from nothing: a teacher on hard labels, then the model itself, distilled from that teacher."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainer.architecture import Architecture, Attention
from trainer.data import Batch
from trainer.distil import distilled
from trainer.engine import hard_labels, train
from trainer.model import HybridLM
from trainer.recipe import Recipe
from trainer.stage import Outcome, Workspace
from trainer.step import Loss


class Teacher(Recipe):
    """Trains a wider model of the same blocks on hard labels; later stages learn from it."""

    changes_model: ClassVar[bool] = False

    kind: Literal["teacher"] = "teacher"
    tokens: int = Field(default=480_000, ge=1)
    widen: float = Field(default=1.5, gt=1, le=16, description="Width, FFN width and heads, relative to the model's")

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the teacher."""
        model = HybridLM(widened(workspace.architecture, self.widen), seed=self.seed)
        return _pretrain(self, model, hard_labels, workspace)


class Pretrain(Recipe):
    """Trains the model on hard labels and, if there was a teacher stage, on the teacher's top-K predictions."""

    changes_model: ClassVar[bool] = True

    kind: Literal["pretrain"] = "pretrain"
    tokens: int = Field(default=320_000, ge=1)
    distillation: float = Field(default=0.5, ge=0, le=1, description="Share of the loss that is distillation")
    top_k: int = Field(default=32, ge=1)
    temperature: float = Field(default=2.0, gt=0)

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the model."""
        model = HybridLM(workspace.architecture, seed=self.seed)
        teacher = workspace.checkpoints.get("teacher")
        loss = hard_labels if teacher is None or self.distillation == 0 else self._from(teacher.model())
        return _pretrain(self, model, loss, workspace)

    def _from(self, teacher: HybridLM) -> Loss:
        def loss(model: HybridLM, batch: Batch) -> Tensor:
            with torch.no_grad():
                known = teacher(batch.inputs, documents=batch.documents)
            return distilled(
                model(batch.inputs, documents=batch.documents),
                batch.targets,
                known,
                share=self.distillation,
                top_k=self.top_k,
                temperature=self.temperature,
            )

        return loss


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


def _pretrain(stage: Teacher | Pretrain, model: HybridLM, loss: Loss, workspace: Workspace) -> Outcome:
    run = workspace.run()
    before = workspace.held_out(model, stage.sequence)
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
