"""Are the phone's tokens those of the same quantised model in PyTorch?

Both hold the same 4-bit integers and differ in how 8-bit activations are rounded. With Q the eager quantised logits
and W those of the same weights with unrounded activations, phone and Q are two roundings of W of the same step, so a
logit of the phone may differ from Q by b = 2 max|Q - W|. A greedy choice may then differ only where Q's two logits
are within 2 b: a near tie. Everything is judged along the tokens that the phone took.
"""

import torch

from device_agent.contracts import Generation, Quantisation
from server.runs import NearTie, TokenCheck
from trainer.generate import teacher_forced
from trainer.model import HybridLM
from trainer.quantise import Scheme, quantised

_FLOAT_BOUND = 1e-3  # nothing is rounded in float32: only the order of sums differs


def check_tokens(model: HybridLM, quantisation: Quantisation, generation: Generation) -> TokenCheck:
    """Compare every step's choice and both of its logits with the eager model's."""
    tokens = [step.token for step in generation.steps]
    if quantisation.weight_bits == 4:
        eager = teacher_forced(quantised(model, Scheme(quantisation.group_size)), generation.prompt, tokens)
        unrounded = quantised(model, Scheme(quantisation.group_size, activations=False))
        bound = 2 * (eager - teacher_forced(unrounded, generation.prompt, tokens)).abs().max().item()
    else:
        eager, bound = teacher_forced(model, generation.prompt, tokens), _FLOAT_BOUND
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
