"""TRL's GKD loss judges our generalised JSD; with every token among the K likeliest, the decoupled loss too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.experimental.gkd.gkd_trainer import GKDTrainer

from trainer.distil import TopK, decoupled_top_k, generalised_jsd


def _theirs(student: torch.Tensor, teacher: torch.Tensor, beta: float, temperature: float) -> torch.Tensor:
    """Per position: theirs divides by the first axis alone."""
    summed = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, temperature=temperature, reduction="sum")
    return summed / student[..., 0].numel()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    beta=st.sampled_from([0.0, 1.0]) | st.floats(0.01, 0.99),
    temperature=st.floats(0.5, 5),
    spread=st.floats(0.1, 20),
)
def test_value_and_gradient_are_trls(seed: int, beta: float, temperature: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, 5, 40, generator=generator, dtype=torch.float64) * spread
    found = []
    for loss in (
        lambda s: generalised_jsd(s, teacher, beta=beta, temperature=temperature),
        lambda s: _theirs(s, teacher, beta, temperature),
    ):
        inputs = student.clone().requires_grad_()
        value = loss(inputs)
        found.append((value, *torch.autograd.grad(value, inputs)))
    for ours, theirs in zip(*found, strict=True):
        # TRL keeps beta in the logits' type and its logarithms as they come: the last digits differ.
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_over_the_whole_vocabulary_the_decoupled_loss_is_trls_forward_kl(temperature: float) -> None:
    student, teacher = torch.randn(2, 2, 5, 40, generator=torch.Generator().manual_seed(1)) * 3
    bernoulli, conditional = decoupled_top_k(student, *TopK.of(teacher, 40), temperature=temperature)
    assert bernoulli.item() == 0
    assert torch.allclose(conditional, _theirs(student, teacher, 0.0, temperature), rtol=1e-5)
