import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.distil import decoupled_top_k, distilled, forward_kl


def _logits(seed: int, spread: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, vocabulary)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64) * spread,
        torch.randn(shape, generator=generator, dtype=torch.float64) * spread,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), spread=st.floats(0.01, 6), vocabulary=st.integers(3, 60), share=st.floats(0.05, 0.95)
)
def test_with_its_dropped_tail_the_loss_is_exactly_the_forward_kl(
    seed: int, spread: float, vocabulary: int, share: float
) -> None:
    """The chain rule: KL = KL(Bernoulli of the mass) + mass * KL(within) + (1 - mass) * KL(outside)."""
    student, teacher = _logits(seed, spread, vocabulary)
    k = max(1, min(vocabulary - 1, round(share * vocabulary)))
    order = teacher.argsort(-1, descending=True)
    ids, rest = order[..., :k], order[..., k:]
    bernoulli, conditional = decoupled_top_k(
        student, ids, teacher.gather(-1, ids), teacher.logsumexp(-1), temperature=1.0
    )
    outside_teacher = teacher.gather(-1, rest).log_softmax(-1)
    outside_student = student.gather(-1, rest).log_softmax(-1)
    mass_outside = teacher.softmax(-1).gather(-1, rest).sum(-1)
    tail = (mass_outside * (outside_teacher.exp() * (outside_teacher - outside_student)).sum(-1)).mean()
    assert math.isclose(bernoulli + conditional + tail, forward_kl(student, teacher), rel_tol=1e-5, abs_tol=1e-7)


def test_a_student_equal_to_its_teacher_loses_nothing() -> None:
    logits, _ = _logits(0, 3.0, 40)
    top, ids = logits.topk(8)
    for part in decoupled_top_k(logits, ids, top, logits.logsumexp(-1), temperature=2.0):
        assert abs(part.item()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_teachers_and_whole_vocabularies_stay_finite(dtype: torch.dtype) -> None:
    student = torch.zeros(1, 10, dtype=dtype, requires_grad=True)
    teacher = torch.full((1, 10), -1e4, dtype=dtype)
    teacher[0, 3] = 0
    for k in (1, 4, 10):
        top, ids = teacher.topk(k)
        bernoulli, conditional = decoupled_top_k(student, ids, top, teacher.logsumexp(-1), temperature=2.0)
        loss = bernoulli + conditional
        loss.backward()
        assert math.isfinite(loss.item())
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())


def test_the_second_part_alone_is_tempered() -> None:
    student, teacher = _logits(1, 2.0, 30)
    top, ids = teacher.topk(5)
    plain = decoupled_top_k(student, ids, top, teacher.logsumexp(-1), temperature=1.0)
    warm = decoupled_top_k(student, ids, top, teacher.logsumexp(-1), temperature=4.0)
    assert torch.equal(plain[0], warm[0])
    mass = teacher.softmax(-1).gather(-1, ids).sum(-1)
    within = torch.nn.functional.kl_div(
        (student.gather(-1, ids) / 4).log_softmax(-1), (top / 4).softmax(-1), reduction="none"
    ).sum(-1)
    assert torch.allclose(warm[1], (mass * within).mean())


def test_without_distillation_the_loss_is_cross_entropy() -> None:
    student, teacher = _logits(2, 2.0, 30)
    targets = torch.randint(0, 30, (2, 3), generator=torch.Generator().manual_seed(0))
    loss = distilled(student, targets, teacher, share=0.0, top_k=4, temperature=2.0)
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(student.flatten(0, 1), targets.flatten()))
