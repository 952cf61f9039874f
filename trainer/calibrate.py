"""What flows through a model: calibration text, and the mean squares of every matrix's inputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.data import Batch, Corpus
from trainer.engine import never
from trainer.errors import Interrupted
from trainer.model import HybridLM
from trainer.precision import HEAD

Tell = Callable[[int, int], None]
"""(steps done, steps in all)."""


def untold(done: int, total: int) -> None:
    """A Tell that nobody reads."""


class Watch:
    """Who is told of long work that is not training, and who may stop it."""

    def __init__(self, tell: Tell = untold, should_stop: Callable[[], bool] = never) -> None:
        self._tell, self._should_stop = tell, should_stop

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is.

        Raises:
            Interrupted: somebody asked to stop.
        """
        self._tell(done, total)
        if done < total and self._should_stop():
            raise Interrupted(f"stopped after {done} of {total} steps", advice="start it again to carry on")


def calibration(
    corpus: Corpus, *, windows: int = 64, sequence: int = 128, seed: int = 0, batch: int = 8
) -> list[Batch]:
    """Windows of the training text, never of the held-out text; the same for the same arguments."""
    size = min(batch, windows)
    return [corpus.batch(step, size=size, sequence=sequence, seed=seed) for step in range(max(1, windows // size))]


@contextmanager
def listening(modules: Sequence[nn.Module], heard: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Within it, `heard` is given the input [..., in] of every call of `modules`."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        heard(module, inputs[0])

    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def mean_squares(model: HybridLM, batches: Sequence[Batch], watch: Watch | None = None) -> dict[str, Tensor]:
    """[in] of every linear and of the head, by role; the embedding reads tokens and has none."""
    names: dict[nn.Module, str] = {m: f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    sums: dict[str, Tensor] = {}
    rows = 0

    def heard(module: nn.Module, x: Tensor) -> None:
        _add(sums, names[module], x)

    with listening(list(names), heard):
        for done, batch in enumerate(batches):
            hidden = model.hidden(batch.inputs, documents=batch.documents)
            _add(sums, HEAD, hidden)
            rows += batch.inputs.numel()
            if watch:
                watch(done + 1, len(batches))
    return {role: total / rows for role, total in sums.items()}


def _add(sums: dict[str, Tensor], role: str, x: Tensor) -> None:
    squares = x.float().square().flatten(0, -2).sum(0)
    sums[role] = sums[role] + squares if role in sums else squares
