"""What a training must keep to go on: its weights, and what the optimiser knows of each of them, by name.

The names do not depend on ranks or on the order of an optimiser's groups, so any number of ranks can carry on.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.model import HybridLM
from trainer.shards import Shards


def training_state(model: HybridLM, optimiser: Optimizer) -> dict[str, Tensor]:
    """Every tensor to save, sharded as it is; those of the model are the model's own memory."""
    state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state |= {f"optimiser/{name}/{key}": tensor for key, tensor in optimiser.state[parameter].items()}
    return state


def restore_state(saved: Shards, model: HybridLM, optimiser: Optimizer) -> None:
    """Fill a new `model` and `optimiser` with what `training_state` gave, saved by however many ranks.

    Raises:
        CheckpointError: another architecture's.
    """
    optimiser.state.clear()
    parameters = dict(model.named_parameters())
    for key, (shape, kind) in saved.shapes().items():
        part, _, rest = key.partition("/")
        name, _, kept = rest.rpartition("/")
        if part == "optimiser" and name in parameters:
            optimiser.state[parameters[name]][kept] = _empty(parameters[name], shape, kind)
    saved.fill(training_state(model, optimiser))


def _empty(parameter: Tensor, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    """Sharded as `parameter` where it is of its shape, as moments are; counts of steps are whole on every rank."""
    if shape == tuple(parameter.shape):
        return torch.empty_like(parameter, dtype=kind, requires_grad=False)
    return torch.empty(shape, dtype=kind, device=parameter.device)
