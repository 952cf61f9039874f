"""Merging checkpoints: one tensor of all models in memory at a time, besides the merged model."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from safetensors import safe_open
from torch import Generator

from trainer.checkpoint import Checkpoint
from trainer.errors import MergeError
from trainer.merge.methods import merge_tensor
from trainer.merge.recipe import MergeRecipe
from trainer.model import HybridLM


def merged(recipe: MergeRecipe, models: Sequence[Checkpoint], base: Checkpoint | None) -> HybridLM:
    """The model that `recipe` makes of `models`, in evaluation mode. Equal arguments give equal bits.

    Raises:
        MergeError: see `check`.
        CheckpointError: one is missing or damaged.
    """
    check(recipe, models, base)
    weights = recipe.weights or (1 / len(models),) * len(models)
    result = HybridLM(models[0].architecture)
    with ExitStack() as stack, torch.no_grad():
        files = [stack.enter_context(safe_open(model.weights(), "pt")) for model in models]
        origin = stack.enter_context(safe_open(base.weights(), "pt")) if base and recipe.needs_base else None
        for name, parameter in result.named_parameters():
            tensors = [file.get_tensor(name) for file in files]
            start = origin.get_tensor(name) if origin else None
            parameter.copy_(merge_tensor(recipe, tensors, weights, start, _generator(recipe.seed, name)))
    return result.eval()


def check(recipe: MergeRecipe, models: Sequence[Checkpoint], base: Checkpoint | None) -> None:
    """That `recipe` can merge them.

    Raises:
        MergeError: too few or too many, a base that is missing, other architectures, tokenizers or numbers of weights.
    """
    least = 2 if recipe.method in ("slerp", "linear", "model_stock") else 1
    if len(models) < least or (recipe.method == "slerp" and len(models) != 2):
        wanted = "exactly two models" if recipe.method == "slerp" else f"at least {least} models"
        raise MergeError(
            f"{recipe.method} merges {wanted}, not {len(models)}", advice="choose another method, or models"
        )
    if recipe.weights is not None and len(recipe.weights) != len(models):
        raise MergeError(
            f"there are {len(models)} models and {len(recipe.weights)} weights", advice="give one weight per model"
        )
    if recipe.needs_base and base is None:
        raise MergeError(
            f"{recipe.method} merges what the models learnt since they were one, and the base is missing",
            advice="name the model that all were trained from, or choose linear or slerp",
        )
    first = models[0]
    for other in (*models[1:], *([base] if base else [])):
        if other.architecture != first.architecture:
            raise MergeError(
                f"{other.directory} has another architecture than {first.directory}",
                advice="merge models that were trained from one",
            )
        if other.tokenizer.to_str() != first.tokenizer.to_str():
            raise MergeError(
                f"{other.directory} has another tokenizer than {first.directory}: its tokens mean something else",
                advice="merge models that were trained from one",
            )


def _generator(seed: int, name: str) -> Generator:
    """Of one tensor: what is dropped from it depends on nothing else."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
