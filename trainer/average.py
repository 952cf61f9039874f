"""An exponential moving average of a model's weights, which is often the better model (arXiv 2411.18704)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Averaged weights, kept beside the trained ones in their types."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps; early ones are forgotten sooner, as (1 + n) / (10 + n)."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._model.named_parameters():
            self.weights[name].lerp_(parameter, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the averaged weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the averaged weights and the trained ones."""
        for name, parameter in self._model.named_parameters():
            trained = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(trained)

    def state(self) -> dict[str, Tensor]:
        """What is saved, and filled when it is taken up again."""
        return {f"average/{name}": weight for name, weight in self.weights.items()}
