"""The methods, on one tensor: the same role in every model, and in the base where there is one."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Generator, Tensor

from trainer.merge.recipe import MergeRecipe
from trainer.merge.sparsify import drop, drop_by_rank, trim

_PARALLEL = 0.9995  # |cosine| from which an arc is too short to divide by its sine
_TINY = 1e-8
_SINGULAR = 1e-6


def merge_tensor(
    recipe: MergeRecipe, models: Sequence[Tensor], weights: Sequence[float], base: Tensor | None, generator: Generator
) -> Tensor:
    """The merged tensor, of the models' shape, in fp32.

    Args:
        recipe: the method.
        models: [n] tensors of one shape.
        weights: one per model.
        base: what all models were trained from; methods without a base do not look at it.
        generator: where dropped elements are drawn from, model after model.
    """
    parts = [model.float() for model in models]
    if recipe.method == "linear":
        return _linear(parts, weights)
    if recipe.method == "slerp":
        return _slerp(parts[0], parts[1], weights[1] / (weights[0] + weights[1]))
    if base is None:
        raise ValueError(f"{recipe.method} needs the base")
    if recipe.method == "model_stock":
        return _model_stock(base.float(), parts)
    return _task_vectors(recipe, parts, weights, base.float(), generator)


def _linear(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    mixed = torch.zeros_like(models[0])
    for model, weight in zip(models, weights, strict=True):
        mixed.add_(model, alpha=weight)
    return mixed / sum(weights)


def _slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """At `t` of the arc from first to second; their lengths are interpolated with the same coefficients."""
    unit = [x / norm if (norm := x.norm()) > _TINY else x for x in (first, second)]
    cosine = (unit[0] * unit[1]).sum().clamp(-1, 1)
    if cosine.abs() > _PARALLEL:
        return (1 - t) * first + t * second
    angle = cosine.acos()
    return (((1 - t) * angle).sin() * first + (t * angle).sin() * second) / angle.sin()


def _model_stock(base: Tensor, models: Sequence[Tensor]) -> Tensor:
    """Between the base and the models' mean (arXiv 2403.19522, eq. 3), by the mean cosine between task vectors."""
    vectors = [(model - base).flatten() for model in models]
    cosines = [
        ((a * b).sum() / (a.norm() * b.norm()).clamp(min=_SINGULAR)).clamp(-1, 1) for a, b in combinations(vectors, 2)
    ]
    cosine, count = torch.stack(cosines).mean(), len(models)
    below = 1 + (count - 1) * cosine
    t = count * cosine / below if below.abs() >= _SINGULAR else torch.zeros(())
    return t * (sum(models[1:], models[0]) / count) + (1 - t) * base


def _task_vectors(
    recipe: MergeRecipe, models: Sequence[Tensor], weights: Sequence[float], base: Tensor, generator: Generator
) -> Tensor:
    weight = torch.tensor(weights).view(-1, *(1,) * base.dim())
    vectors = torch.stack([_sparse(recipe, model - base, generator) for model in models]) * weight
    counts = torch.ones_like(vectors, dtype=torch.bool)
    if recipe.elects_signs:
        majority = torch.where(vectors.sum(dim=0) >= 0, 1.0, -1.0)
        counts = vectors.sign() == majority
    merged = (vectors * counts).sum(dim=0)
    if recipe.averages:
        counted = (weight * counts).sum(dim=0)
        merged = merged / torch.where(counted == 0, 1.0, counted)
    return base + recipe.scale * merged


def _sparse(recipe: MergeRecipe, delta: Tensor, generator: Generator) -> Tensor:
    if recipe.method == "ties":
        return trim(delta, recipe.density)
    if recipe.method.startswith("dare"):
        return drop(delta, recipe.density, generator)
    if recipe.method.startswith("della"):
        return drop_by_rank(delta, recipe.density, recipe.epsilon, generator)
    return delta
