"""Are the phone's tokens those of the same quantised model in PyTorch?

Both hold the same integers and differ in how 8-bit activations are rounded. With Q the eager quantised logits
and W those of the same weights with unrounded activations, phone and Q are two roundings of W of the same step, so a
logit of the phone may differ from Q by b = 2 max|Q - W|. A greedy choice may then differ only where Q's two logits
are within 2 b: a near tie. Everything is judged along the tokens that the phone took. Where the Program's KV cache is
rounded, Q rounds keys and values too (its keys before they are rotated, which is of the same step) and W does not.

What this bound cannot see is an error whose effect on the logits is below that of rounding them. Such errors show where
nothing is rounded, in the export's tests with float32 Programs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from device_agent.contracts import Generation, KvCache, Quantisation
from search.export.attention import quantise_rows
from search.numerics import scheme_of
from server.runs import NearTie, TokenCheck
from trainer.generate import teacher_forced
from trainer.model import AttentionOperator, HybridLM
from trainer.precision import EMBEDDING
from trainer.quantise import Packing, pack, quantised

_FLOAT_BOUND = 1e-3  # activations are not rounded: only the order of sums differs


def check_tokens(
    model: HybridLM,
    quantisation: Quantisation | Packing,
    generation: Generation,
    kv_cache: KvCache = "float32",
) -> TokenCheck:
    """Compare every step's choice and both of its logits with the eager model's.

    A Packing holds the integers that were exported; a Quantisation says that the model was rounded to nearest.
    """
    tokens = [step.token for step in generation.steps]
    packing = quantisation if isinstance(quantisation, Packing) else pack(model, scheme_of(quantisation))
    eager, bound = _expected(model, packing, kv_cache, generation.prompt, tokens)
    choices = eager.argmax(dim=-1).tolist()
    ties, worst = [], 0.0
    for position, (step, choice) in enumerate(zip(generation.steps, choices, strict=True)):
        row = eager[position]
        differences = (row[step.token] - step.logit, row[step.runner_up] - step.runner_up_logit)
        worst = max(worst, *(abs(float(difference)) for difference in differences))
        if choice != step.token:
            gap = float(row[choice] - row[step.token])
            ties.append(
                NearTie(position=position, phone_token=step.token, eager_token=choice, logit_gap=gap, bound=2 * bound)
            )
    return TokenCheck(
        tokens=len(tokens),
        agreed=len(tokens) - len(ties),
        near_ties=tuple(ties),
        max_logit_difference=worst,
        passed=bool(torch.isfinite(eager).all()) and worst <= bound and all(t.logit_gap <= t.bound for t in ties),
    )


def _expected(
    model: HybridLM, packing: Packing, kv_cache: KvCache, prompt: tuple[int, ...], tokens: list[int]
) -> tuple[Tensor, float]:
    """The logits that a Program should give along `tokens`, and by how much one of them may differ."""
    exact = not packing.scheme.activations or packing.integers.keys() <= {EMBEDDING}
    deployed = quantised(model, packing)
    with _rounded_cache(deployed, kv_cache):
        eager = teacher_forced(deployed, prompt, tokens)
    if exact and kv_cache == "float32":
        return eager, _FLOAT_BOUND
    unrounded = quantised(model, packing.unrounded_activations())
    bound = 2 * (eager - teacher_forced(unrounded, prompt, tokens)).abs().max().item()
    return eager, max(bound, _FLOAT_BOUND) if exact else bound


@contextmanager
def _rounded_cache(model: HybridLM, kv_cache: KvCache) -> Iterator[None]:
    """The model keeps its keys and values as a Program with such a cache does."""
    hooks = []
    for operator in model.modules() if kv_cache != "float32" else ():
        if isinstance(operator, AttentionOperator):
            rounding = partial(_rounded, kv_cache, operator.head_dim)
            hooks += [part.register_forward_hook(rounding) for part in (operator.k_layernorm, operator.v_proj)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rounded(kv_cache: KvCache, head_dim: int, _: object, __: object, out: Tensor) -> Tensor:
    """[..., heads * head_dim] or [..., head_dim], rounded per head."""
    if kv_cache == "float16":
        return out.half().float()
    values, scales = quantise_rows(out.unflatten(-1, (-1, head_dim)))
    return (values * scales[..., None]).view_as(out)
