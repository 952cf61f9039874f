"""Quantisation after training, as a stage: to nearest or GPTQ, on calibration text."""

import time
from typing import Literal

from pydantic import Field

from trainer.calibrate import calibration
from trainer.checkpoint import Quantised
from trainer.errors import CheckpointError
from trainer.gptq import post_training
from trainer.options import PtqOptions
from trainer.quantise import quantised
from trainer.rounded import chosen, watch
from trainer.stage import Outcome, ReadsNoFiles, Workspace


class Ptq(PtqOptions, ReadsNoFiles):
    """Rounds the model without training it; the full-precision weights stay beside the integers.

    Before: the full-precision model. After: the rounded one.
    """

    kind: Literal["ptq"] = "ptq"
    sequence: int = Field(default=128, ge=8, description="Tokens of a calibration window")
    seed: int = 0

    def perform(self, workspace: Workspace) -> Outcome:
        """Round the model.

        Raises:
            CheckpointError: no stage before it left a model.
            QuantisationError: see `trainer.rounded.chosen`.
        """
        if workspace.start is None:
            raise CheckpointError("there is no model to quantise", advice="put a pretraining stage before it")
        begun = time.monotonic()
        full = workspace.start.model().requires_grad_(False)
        scheme, found = chosen(self, full, workspace, self.sequence, self.seed)
        batches = calibration(
            workspace.corpus, windows=self.calibration_windows, sequence=self.sequence, seed=self.seed
        )
        packing = post_training(full, scheme, batches, method=self.method, scales=self.scales, watch=watch(workspace))
        seconds = time.monotonic() - begun
        after = workspace.held_out(quantised(full, packing), self.sequence)
        found |= {"by": self.method, "scales": self.scales, **after}
        sealed = workspace.seal(full, Quantised(packing, found))
        return Outcome(
            stage=self.kind,
            checkpoint=sealed.directory,
            before=workspace.held_out(full, self.sequence),
            after=after | {"matrix_bytes": scheme.bytes(full.architecture)},
            tokens=sum(batch.inputs.numel() for batch in batches),
            parameters=full.architecture.parameters,
            seconds=seconds,
        )
