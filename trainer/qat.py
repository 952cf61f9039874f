"""4-bit quantisation-aware training, with self-distillation from the full-precision model it starts from."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainer.checkpoint import seal
from trainer.data import Batch
from trainer.distil import forward_kl
from trainer.engine import Loss, Recipe, train
from trainer.errors import CheckpointError
from trainer.model import HybridLM
from trainer.quantise import Scheme, prepare_qat, quantised
from trainer.stage import Outcome, Workspace


class Qat(Recipe):
    """Trains the model under the rounding of deployment.

    Before: the full-precision model rounded after training. After: the trained model rounded the same way.
    """

    changes_model: ClassVar[bool] = True

    kind: Literal["qat"] = "qat"
    tokens: int = Field(default=100_000, ge=1)
    learning_rate: float = Field(default=6e-3, gt=0)
    decay: float = Field(default=1.0, ge=0, le=1)
    group_size: int = Field(default=32, ge=32)
    activations: bool = Field(default=True, description="Whether deployment rounds activations")
    embedding: bool = Field(default=True, description="Whether deployment reads tokens from a rounded embedding")
    distillation: float = Field(default=0.5, ge=0, le=1, description="Share of the loss that is self-distillation")
    stochastic_rounding: bool = Field(
        default=False, description="Keep master weights in bfloat16, rounded stochastically after every step"
    )

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the model.

        Raises:
            CheckpointError: no stage before it left a model.
        """
        if workspace.start is None:
            raise CheckpointError("there is no model to quantise", advice="put a pretraining stage before it")
        scheme = Scheme(self.group_size, self.activations, self.embedding)
        full = workspace.start.model().requires_grad_(False)
        model = prepare_qat(workspace.start.model(), scheme)
        run = workspace.run()
        if self.stochastic_rounding:
            run.after_step = self._round_masters
        before = workspace.held_out(quantised(full, scheme), self.sequence)
        before["full_precision_bits_per_byte"] = workspace.held_out(full, self.sequence)["bits_per_byte"]
        train(model, workspace.corpus, self, self._loss(full), run)
        sealed = seal(model, workspace.sealed, workspace.corpus.tokenizer)
        return Outcome(
            stage=self.kind,
            checkpoint=sealed.directory,
            before=before,
            after=workspace.held_out(quantised(model, scheme), self.sequence),
            tokens=self.steps * self.batch * self.sequence,
            parameters=model.architecture.parameters,
            seconds=run.seconds,
        )

    def _loss(self, full: HybridLM) -> Loss:
        def loss(model: HybridLM, batch: Batch) -> Tensor:
            logits = model(batch.inputs, documents=batch.documents)
            hard = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
            if self.distillation == 0:
                return hard
            with torch.no_grad():
                known = full(batch.inputs, documents=batch.documents)
            return (1 - self.distillation) * hard + self.distillation * forward_kl(logits, known)

        return loss

    def _round_masters(self, model: HybridLM, step: int) -> None:
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(stochastically_rounded(parameter, generator))


def stochastically_rounded(x: Tensor, generator: torch.Generator) -> Tensor:
    """x (float32) rounded to neighbouring bfloat16 values, up or down so that the mean is x; float32 again.

    Adding 16 random bits below bfloat16's last and cutting them off carries with the probability of the remainder.
    """
    noise = torch.randint(0, 1 << 16, x.shape, generator=generator, dtype=torch.int32)
    return ((x.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32)
