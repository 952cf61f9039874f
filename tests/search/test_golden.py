"""The golden logits of the self-check: the same every time, and a bound that tells models apart.

That the exported Program keeps the bound is shown where a phone runs it (tests/end_to_end/test_phone_check.py).
"""

import torch

from search.export.golden import ARCHITECTURE, PREFILL, golden_logits, golden_model
from trainer.quantise import quantised


def worst(logits: torch.Tensor, known: tuple[tuple[float, ...], ...]) -> float:
    return (logits[0, PREFILL - 1 :] - torch.tensor(known)).abs().max().item()


def test_the_golden_logits_never_change() -> None:
    assert golden_logits(golden_model()) == golden_logits(golden_model())


@torch.no_grad()
def test_the_bound_tells_models_apart() -> None:
    model = golden_model()
    golden = golden_logits(model)
    tokens = torch.tensor([golden.tokens])
    assert worst(quantised(model)(tokens), golden.logits) == 0
    assert worst(model(tokens), golden.logits) > golden.bound  # unrounded weights
    for name, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter.copy_(torch.roll(parameter, 1, 0) * 1.5)
        assert worst(quantised(model)(tokens), golden.logits) > golden.bound, name
        parameter.copy_(kept)
    assert {operator.operator for operator in ARCHITECTURE.blocks} == {"conv", "attention"}
