"""Quantisation-aware training, with self-distillation from the full-precision model it starts from."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from trainer.checkpoint import Quantised
from trainer.data import Batch
from trainer.distil import forward_kl
from trainer.engine import train
from trainer.errors import CheckpointError
from trainer.fake_quantise import masters, pack_trained, prepare_qat, rounders
from trainer.model import HybridLM
from trainer.optimisers import BETAS, make_optimiser, parameter_groups
from trainer.options import QatOptions
from trainer.precision import Scheme
from trainer.quantise import quantised
from trainer.recipe import Recipe
from trainer.rounded import chosen
from trainer.rounding import Noise, RoundedAdamW, in_bfloat16
from trainer.scales import search_scales
from trainer.stage import Outcome, ReadsNoFiles, Workspace
from trainer.step import Loss


class Qat(Recipe, QatOptions, ReadsNoFiles):
    """Trains the model under the rounding of deployment.

    Before: the full-precision model rounded to nearest. After: the trained model, rounded as it was trained.
    """

    kind: Literal["qat"] = "qat"
    tokens: int = Field(default=100_000, ge=1)
    learning_rate: float = Field(default=6e-3, gt=0)
    decay: float = Field(default=1.0, ge=0, le=1)
    precision: Literal["float32"] = "float32"  # dequantised weights have more digits than a bfloat16

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the model.

        Raises:
            CheckpointError: no stage before it left a model.
            QuantisationError: see `trainer.rounded.chosen`.
        """
        if workspace.start is None:
            raise CheckpointError("there is no model to quantise", advice="put a pretraining stage before it")
        full = workspace.start.model().requires_grad_(False)
        scheme, found = workspace.ranks.once(lambda: chosen(self, full, workspace, self.sequence, self.seed))
        model = self.prepared(workspace.start.model(), scheme)
        run = workspace.run()
        run.before_step = self.forward_noise(model)
        before = workspace.held_out(quantised(full, scheme), self.sequence)
        before["full_precision_bits_per_byte"] = workspace.held_out(full, self.sequence)["bits_per_byte"]
        known = self.loss(workspace.placed(full))
        train(workspace.placed(model), workspace.corpus, self, known, run, self.optimiser_of)
        model.cpu()
        plain, packing = masters(model), pack_trained(model, scheme)
        after = workspace.held_out(quantised(plain, packing), self.sequence)
        found |= {"by": self.kind, "scales": self.scales, **after}
        sealed = workspace.seal(plain, Quantised(packing, found))
        return Outcome(
            stage=self.kind,
            checkpoint=sealed.directory,
            before=before,
            after=after | {"matrix_bytes": scheme.bytes(model.architecture)},
            tokens=self.steps * self.batch * self.sequence,
            parameters=model.architecture.parameters,
            seconds=run.seconds,
        )

    def prepared(self, model: HybridLM, scheme: Scheme) -> HybridLM:
        """`model` made to train under `scheme`, its masters in the type they are kept in; in place."""
        scales = None if self.scales == "absmax" else search_scales(model, scheme)
        prepare_qat(model, scheme, scales, learn=self.scales == "learned")
        if self.masters == "bfloat16":
            in_bfloat16(model)
        return model

    def optimiser_of(self, model: HybridLM) -> Optimizer:
        """AdamW; where masters are in bfloat16, the one that can round what it stores."""
        if self.masters == "float32":
            return make_optimiser(model, self)
        noise = Noise(self.seed) if self.stochastic_rounding else None
        names = {parameter: name for name, parameter in model.named_parameters()}
        return RoundedAdamW(parameter_groups(model, self), names, noise, lr=self.learning_rate, betas=BETAS)

    def loss(self, full: HybridLM) -> Loss:
        """(1 - share) cross-entropy + share KL(full || model) over the whole vocabulary."""

        def loss(model: HybridLM, batch: Batch) -> Tensor:
            logits = model(batch.inputs, documents=batch.documents)
            hard = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
            if self.distillation == 0:
                return hard
            with torch.no_grad():
                known = full(batch.inputs, documents=batch.documents)
            return (1 - self.distillation) * hard + self.distillation * forward_kl(logits, known)

        return loss

    def forward_noise(self, model: HybridLM) -> Callable[[int], None] | None:
        """What a Run calls before every step, where the forward pass of `model` is to round stochastically."""
        if not self.stochastic_forward:
            return None
        noise = Noise(self.seed)
        for rounder in rounders(model).values():
            rounder.noise = noise

        def advance(step: int) -> None:
            noise.step = step

        return advance
