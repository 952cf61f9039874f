"""The coordinate check of muP (arXiv 2203.03466, appendix D.1): what a few steps change does not depend on width."""

import math
from collections.abc import Callable
from itertools import count
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.data import Batch
from trainer.engine import hard_labels
from trainer.model import HybridLM
from trainer.optimisers import make_optimiser
from trainer.recipe import Recipe
from trainer.step import take_step

_WIDTHS = (128, 512)
_STEPS = 5
Change = Callable[[HybridLM, torch.optim.Optimizer], None]


def _as_it_is(model: HybridLM, optimiser: torch.optim.Optimizer) -> None:
    """The parametrisation under test."""


def _standard(model: HybridLM, optimiser: torch.optim.Optimizer) -> None:
    """One rate at every width, that of width 128, and no output multiplier."""
    nn.init.ones_(model.model.embedding_norm.weight)
    for group in optimiser.param_groups:
        group["scale"] *= model.architecture.width / 128 if group["scale"] < 1 and not group["orthogonal"] else 1.0


def _outputs(model: HybridLM, tokens: Tensor) -> dict[str, Tensor]:
    """What every operator, SwiGLU and layer gives, and the logits."""
    seen: dict[str, Tensor] = {}
    watched = {n: m for n, m in model.named_modules() if n.split(".")[-1] in ("conv", "self_attn", "feed_forward")}
    watched |= {f"layer {i}": layer for i, layer in zip(count(), model.model.layers, strict=False)}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.clone()))
        for name, module in watched.items()
        if not isinstance(module, nn.Conv1d)
    ]
    with torch.no_grad():
        seen["logits"] = model(tokens)
    for hook in hooks:
        hook.remove()
    return seen


def _changes(width: int, optimiser: Literal["adamw", "muon"], change: Change) -> dict[str, float]:
    """RMS of what a few steps of the usual rate change, by module."""
    attention = Attention(heads=width // 16, kv_heads=width // 32, head_dim=16)
    blocks = (ShortConv(), attention, ShortConv())
    model = HybridLM(Architecture(vocab_size=128, width=width, ffn_width=2 * width, blocks=blocks), seed=1)
    recipe = Recipe(tokens=10**9, warmup=0, optimiser=optimiser, batch=4, sequence=64)
    made = make_optimiser(model, recipe)
    change(model, made)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(128, (2, 64), generator=generator)
    before = _outputs(model, probe)
    for _ in range(_STEPS):
        tokens = torch.randint(64, (4, 65), generator=generator)
        batch: Any = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), None, torch.arange(4))
        take_step(model, batch, recipe, hard_labels, made, 0, lambda _: True)
    after = _outputs(model, probe)
    return {name: float((after[name] - before[name]).pow(2).mean().sqrt()) for name in before}


def _slopes(optimiser: Literal["adamw", "muon"], change: Change) -> dict[str, float]:
    """By module: the power of width that its change grows with."""
    narrow, wide = (_changes(width, optimiser, change) for width in _WIDTHS)
    return {name: math.log(wide[name] / narrow[name]) / math.log(_WIDTHS[1] / _WIDTHS[0]) for name in narrow}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_what_steps_change_does_not_depend_on_width(optimiser: Literal["adamw", "muon"]) -> None:
    slopes = _slopes(optimiser, _as_it_is)
    assert max(slopes.values()) < 0.2, slopes
    assert min(slopes.values()) > -0.45, slopes  # the narrower model is nearer the edge of its rates


def test_the_check_tells_the_standard_parametrisation_apart() -> None:
    slopes = _slopes("adamw", _standard)
    assert slopes["logits"] > 0.5, slopes
    assert slopes["layer 2"] > 0.35, slopes
