"""One optimiser step, in as many passes as memory asks for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.data import Batch
from trainer.model import HybridLM
from trainer.recipe import Recipe
from trainer.sharded import whole

Loss = Callable[[HybridLM, Batch], Tensor]
"""The mean over what counts of a batch (`Batch.counted`): its positions, but those whose targets are IGNORED."""


def take_step(
    model: HybridLM,
    batch: Batch,
    recipe: Recipe,
    loss: Loss,
    optimiser: Optimizer,
    step: int,
    accepts: Callable[[float], bool],
    mean: Callable[[Tensor], float] = float,
    counted: float | None = None,
) -> dict[str, float] | None:
    """Move the weights by one batch. None, and nothing is moved, where its loss is not accepted.

    Where ranks share the batch, `mean` is of the losses of all of them, and `counted` what counts of the whole batch
    by their number: the step is then that of the mean over all that counts, however unevenly it lies.

    Returns:
        The loss before the step, the norm of its gradient before clipping, and the rate that was taken.
    """
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * recipe.rate(step) * group["scale"]
    optimiser.zero_grad(set_to_none=True)
    value = mean(_accumulate(model, batch, recipe, loss, batch.counted if counted is None else counted))
    if not accepts(value):
        return None
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return {
        "loss": value,
        "gradient_norm": float(whole(norm)),
        "learning_rate": recipe.learning_rate * recipe.rate(step),
    }


def _accumulate(model: HybridLM, batch: Batch, recipe: Recipe, loss: Loss, counted: float) -> Tensor:
    """The batch's mean loss, its gradients added up; nothing waits for a device between the passes."""
    rows, size = len(batch.inputs), recipe.micro_batch or recipe.batch
    total = torch.zeros((), device=device_of(model))
    for start in range(0, rows, size):
        part = _rows(batch, start, start + size)
        share = part.counted / (counted or 1)
        value = loss(model, moved(_undivided(part), device_of(model))) * share
        value.backward()
        total += value.detach()
    return total


def device_of(model: nn.Module) -> torch.device:
    """Where its first parameter lies."""
    return next(model.parameters()).device


def moved(batch: Batch, device: torch.device) -> Batch:
    """`batch` on `device`, from pinned memory where the copy can then go on beside the work."""
    if device.type == "cpu":
        return batch
    pin = device.type == "cuda"

    def there(tensor: Tensor) -> Tensor:
        return (tensor.pin_memory() if pin else tensor).to(device, non_blocking=pin)

    return replace(batch, **{name: there(tensor) for name, tensor in _tensors(batch).items()})


@contextmanager
def prepared(model: HybridLM, recipe: Recipe) -> Iterator[None]:
    """Within it `model` computes as the recipe wants: in its precision, keeping activations or not, compiled or not."""
    model.compute = getattr(torch, recipe.precision)
    model.recomputes = recipe.checkpoint_activations
    if recipe.compile:
        model.hidden = torch.compile(model.hidden, dynamic=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        model.compute, model.recomputes = torch.float32, False
        if recipe.compile:
            del model.hidden


def _undivided(batch: Batch) -> Batch:
    """`batch` without documents where every window lies within one; asked here, before a device would be waited for."""
    documents = batch.documents
    alone = documents is not None and bool((documents == documents[:, :1]).all())
    return replace(batch, documents=None) if alone else batch


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return replace(batch, **{name: tensor[start:stop] for name, tensor in _tensors(batch).items()})


def _tensors(batch: Batch) -> dict[str, Tensor]:
    found = {one.name: getattr(batch, one.name) for one in fields(batch)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}
