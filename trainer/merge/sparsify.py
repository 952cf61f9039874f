"""What is kept of a task vector. Rescaled to the sum of magnitudes that it had, where the methods ask for it."""

import torch
from torch import Generator, Tensor

_SMALLEST_SUM = 1e-7


def trim(delta: Tensor, density: float) -> Tensor:
    """The `density` largest by magnitude, at least one (TIES, arXiv 2306.01708, section 3.1); the others are zero."""
    if density >= 1:
        return delta
    kept = delta.abs().flatten().float().argsort(descending=True)[: max(1, int(density * delta.numel()))]
    mask = torch.zeros(delta.numel(), dtype=delta.dtype)
    mask[kept] = 1
    return delta * mask.view_as(delta)


def drop(delta: Tensor, density: float, generator: Generator) -> Tensor:
    """Each kept with probability `density` (DARE, arXiv 2311.03099, section 3), then rescaled.

    The paper divides by `density`; here, as in mergekit, the sum of magnitudes is restored exactly.
    """
    if density >= 1:
        return delta
    return _rescaled(delta, torch.bernoulli(torch.full_like(delta, density), generator=generator))


def drop_by_rank(delta: Tensor, density: float, epsilon: float, generator: Generator) -> Tensor:
    """Each kept with a probability that rises with its rank of magnitude in its row, `density` -+ `epsilon`; rescaled.

    MAGPRUNE of DELLA (arXiv 2406.11617, section 3.1). A row is an output of the layer: a depthwise convolution's taps
    [C, 1, K] are C rows of K, whose middle axis would leave nothing to rank.
    """
    if density >= 1:
        return delta
    rows = delta.unsqueeze(0) if delta.dim() < 2 else delta.flatten(1)
    ranks = rows.abs().argsort(dim=1).argsort(dim=1).to(delta.dtype)
    last = max(rows.shape[1] - 1, 1)
    probabilities = (density - epsilon) + ranks / last * 2 * epsilon
    if rows.shape[1] == 1:
        probabilities = torch.full_like(probabilities, density)
    return _rescaled(rows, torch.bernoulli(probabilities, generator=generator)).view_as(delta)


def _rescaled(delta: Tensor, mask: Tensor) -> Tensor:
    kept = delta * mask
    before, after = delta.abs().sum(), kept.abs().sum()
    return kept if before < _SMALLEST_SUM or after < _SMALLEST_SUM else kept * (before / after)
