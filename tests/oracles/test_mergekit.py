"""mergekit judges our merges: the same tensors, bit for bit where sums are taken in one order."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.merge_methods.api import merge_tensors

from trainer.merge.methods import merge_tensor
from trainer.merge.recipe import MergeRecipe

SUMS = ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear", "della", "model_stock")
SHAPES = st.sampled_from([(48, 32), (33,), (2, 7), (16, 1, 3)])


def tensors(shape: tuple[int, ...], count: int, seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]


def theirs(recipe: MergeRecipe, models: list[torch.Tensor], base: torch.Tensor, seed: int) -> torch.Tensor:
    """What mergekit makes of it; it draws from torch's global generator."""
    parameters: dict[str, Any] = {}
    if recipe.method == "slerp":
        assert recipe.weights
        parameters = {"t": recipe.weights[1] / sum(recipe.weights)}
        return merge_tensors(models, "slerp", parameters=parameters, base_index=0)
    if recipe.method == "linear":
        return merge_tensors(models, "linear", parameters={"weight": list(recipe.weights or ())})
    if recipe.method != "model_stock":
        parameters = {"weight": list(recipe.weights or ()), "lambda": recipe.scale}
    if recipe.sparse:
        parameters["density"] = [recipe.density] * len(models)
    if recipe.method.startswith("della"):
        parameters["epsilon"] = [recipe.epsilon] * len(models)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return merge_tensors([base, *models], recipe.method, parameters=parameters, base_index=0)


@given(
    method=st.sampled_from(SUMS),
    shape=SHAPES,
    weights=st.lists(st.floats(0.0625, 2, width=16), min_size=2, max_size=4),
    density=st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    scale=st.sampled_from([1.0, 0.7]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=150, deadline=None)
def test_every_method_gives_what_mergekit_gives(
    method: Any, shape: tuple[int, ...], weights: list[float], density: float, scale: float, seed: int
) -> None:
    if method.startswith("della") and len(shape) == 3:
        return  # there mergekit ranks an axis of one element: see the next test
    base, models = tensors(shape, len(weights), seed)
    own = None if method == "model_stock" else tuple(weights)
    recipe = MergeRecipe(method=method, weights=own, density=density, scale=scale)
    ours = merge_tensor(recipe, models, weights, base, torch.Generator().manual_seed(seed))
    assert torch.equal(ours, theirs(recipe, models, base, seed))


def test_dropping_taps_of_a_convolution_is_dropping_in_rows() -> None:
    """mergekit cannot; it can where the taps are laid out as rows."""
    base, models = tensors((64, 1, 3), 2, seed=4)
    recipe = MergeRecipe(method="della", weights=(0.5, 0.5))
    ours = merge_tensor(recipe, models, (0.5, 0.5), base, torch.Generator().manual_seed(9))
    with pytest.raises(RuntimeError):
        theirs(recipe, models, base, 9)
    flat = theirs(recipe, [model.flatten(1) for model in models], base.flatten(1), 9)
    assert torch.equal(ours, flat.view_as(ours))
    assert not torch.equal(ours, base)


@given(shape=SHAPES, t=st.floats(0, 1, width=16), seed=st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_an_arc_is_mergekits(shape: tuple[int, ...], t: float, seed: int) -> None:
    base, _ = tensors(shape, 0, seed)
    far, _ = tensors(shape, 0, seed + 1)
    recipe = MergeRecipe(method="slerp", weights=(1 - t, t))
    for second in (far, base * 1.5, -base):  # any angle, the same direction, the opposite one
        ours = merge_tensor(recipe, [base, second], (1 - t, t), None, torch.Generator())
        torch.testing.assert_close(ours, theirs(recipe, [base, second], base, 0), rtol=0, atol=2e-6)
