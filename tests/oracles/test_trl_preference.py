"""TRL's DPO and CPO trainers judge our losses of preferences: its own code, given the log-probabilities of answers."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trl.experimental.cpo import CPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer

from trainer.options import LossName, LossTerm
from trainer.preference.losses import Answers, preference_loss

_PAIRS, _LENGTH = 5, 12


def _trls(tokens: Tensor, mask: Tensor, reference: Tensor, terms: list[LossTerm]) -> Tensor:
    """Its loss of log-probabilities [2 x pairs, length] that a model would give, the chosen ones first."""
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda value: value, gather=lambda value: value)
    trainer = DPOTrainer.__new__(DPOTrainer)
    known: dict[str, Any] = {
        "model": SimpleNamespace(training=True),
        "accelerator": accelerator,
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl",
        "beta": terms[0].beta,
        "loss_types": [term.loss for term in terms],
        "loss_weights": [term.weight for term in terms],
        "use_weighting": False,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    vars(trainer).update(known)
    shown = torch.cat([torch.zeros(len(mask), 1, dtype=mask.dtype), mask], dim=1)  # a prompt of one token
    nothing = torch.zeros_like(tokens)  # of its metrics
    outputs = SimpleNamespace(log_probs=tokens * mask, entropy=nothing, mean_logits=nothing, is_top1=mask.bool())
    chosen, rejected = reference.chunk(2)
    inputs = {
        "input_ids": torch.zeros_like(shown),
        "attention_mask": torch.ones_like(shown),
        "completion_mask": shown,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return trainer._compute_loss(lambda **_: outputs, inputs, return_outputs=False)


def _trls_simpo(tokens: Tensor, mask: Tensor, term: LossTerm) -> Tensor:
    trainer = CPOTrainer.__new__(CPOTrainer)
    known = {"alpha": 0.0, "accelerator": SimpleNamespace(device="cpu"), "loss_type": "simpo", "label_smoothing": 0.0}
    vars(trainer).update(known | {"simpo_gamma": term.gamma, "beta": term.beta})
    mean = (tokens * mask).sum(1) / mask.sum(1)
    return term.weight * trainer.cpo_loss(*mean.chunk(2))[0].mean()


def _ours(tokens: Tensor, mask: Tensor, reference: Tensor, terms: list[LossTerm]) -> Tensor:
    summed, lengths = (tokens * mask).sum(1), mask.sum(1)
    sides = zip(summed.chunk(2), reference.chunk(2), lengths.chunk(2), strict=True)
    chosen, rejected = (Answers(*side) for side in sides)
    return preference_loss(chosen, rejected, terms)


_NAMES: list[LossName] = ["sigmoid", "sigmoid_norm", "apo_zero", "simpo"]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    names=st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4, unique=True),
    weights=st.lists(st.floats(0.1, 3), min_size=4, max_size=4),
    beta=st.floats(0.01, 3),
    gamma=st.floats(0, 2),
    least=st.sampled_from([-3.0, -3.0, -1e4]),
    longest=st.sampled_from([_LENGTH, 1]),
)
def test_value_and_gradient_of_every_mix_are_trls(
    seed: int, names: list[LossName], weights: list[float], beta: float, gamma: float, least: float, longest: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy, reference = least * torch.rand(2, 2 * _PAIRS, _LENGTH, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, longest + 1, (2 * _PAIRS, 1), generator=generator)
    mask = (torch.arange(_LENGTH) < lengths).long()
    held = (reference * mask).sum(1)
    terms = [
        LossTerm(loss=name, weight=weight, beta=beta, gamma=gamma) for name, weight in zip(names, weights, strict=False)
    ]

    def theirs(tokens: Tensor) -> Tensor:
        with_reference = [term for term in terms if term.loss != "simpo"]
        total = _trls(tokens, mask, held, with_reference) if with_reference else torch.zeros(())
        return total + sum(_trls_simpo(tokens, mask, term) for term in terms if term.loss == "simpo")

    found = []
    for loss in (lambda tokens: _ours(tokens, mask, held, terms), theirs):
        inputs = policy.clone().requires_grad_()
        value = loss(inputs)
        found.append((value, *torch.autograd.grad(value, inputs)))
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "expected"), [("sigmoid", 0.693147), ("sigmoid_norm", 0.693147), ("apo_zero", 1.0)])
def test_a_policy_that_is_its_reference_has_the_known_loss(name: LossName, expected: float) -> None:
    summed, tokens = -torch.rand(2, 4) * 50, torch.tensor([[3, 1, 9, 2], [1, 7, 2, 2]])
    chosen, rejected = (Answers(side, side, counted) for side, counted in zip(summed, tokens, strict=True))
    assert preference_loss(chosen, rejected, [LossTerm(loss=name)]).item() == pytest.approx(expected, abs=1e-6)
