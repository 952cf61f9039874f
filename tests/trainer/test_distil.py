import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.chunked import mean_loss
from trainer.distil import TopK, decoupled_top_k, distilled, distilled_whole, forward_kl, generalised_jsd

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def _logits(seed: int, spread: float, vocabulary: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn((2, 2, 3, vocabulary), generator=generator, dtype=torch.float64) * spread
    return student.to(dtype), teacher.to(dtype)


def _tail(student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
    """What the decoupled loss drops, from its definition: P_T(outside) KL(P_T(.|outside) || P_S(.|outside))."""
    outside = torch.ones_like(teacher, dtype=torch.bool).scatter(-1, ids, False)
    known = teacher.masked_fill(~outside, -math.inf).log_softmax(-1)
    own = student.masked_fill(~outside, -math.inf).log_softmax(-1)
    mass = (teacher.softmax(-1) * outside).sum(-1)
    return (mass * torch.where(outside, known.exp() * (known - own), 0.0).sum(-1)).mean()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    spread=st.floats(0.01, 300),
    vocabulary=st.integers(2, 60),
    share=st.floats(0.0, 1.0),
    dtype=st.sampled_from(sorted(_DTYPES)),
)
def test_with_its_dropped_tail_the_loss_is_exactly_the_forward_kl(
    seed: int, spread: float, vocabulary: int, share: float, dtype: str
) -> None:
    """The chain rule: KL = KL(Bernoulli of the mass) + mass * KL(within) + (1 - mass) * KL(outside)."""
    student, teacher = _logits(seed, spread, vocabulary, _DTYPES[dtype])
    k = max(1, round(share * vocabulary))
    student.requires_grad_()
    known = TopK.of(teacher, k)
    bernoulli, conditional = decoupled_top_k(student, *known, temperature=1.0)
    exact_student, exact_teacher = student.detach().double(), teacher.double()
    tail = _tail(exact_student, exact_teacher, known.ids) if k < vocabulary else 0.0
    whole = forward_kl(exact_student, exact_teacher).item()
    largest = max(exact_student.abs().max().item(), 1.0)  # how large the numbers are that the KL is a difference of
    rounding = 1e-12 if dtype == "float64" else 4e-7
    assert abs((bernoulli + conditional + tail).item() - whole) <= rounding * (8 * largest + whole)
    (gradient,) = torch.autograd.grad(bernoulli + conditional, student)
    assert bool(gradient.isfinite().all())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), spread=st.floats(0.1, 60), k=st.integers(1, 12))
def test_the_gradient_is_the_chain_rules_too(seed: int, spread: float, k: int) -> None:
    """A student that is certain and wrong is still pulled back: no clamp stands between it and its teacher."""
    student, teacher = _logits(seed, spread, 12, torch.float32)
    student.requires_grad_()
    known = TopK.of(teacher, k)
    (gradient,) = torch.autograd.grad(sum(decoupled_top_k(student, *known, temperature=1.0)), student)
    exact, own = teacher.double(), student.detach().double().requires_grad_()
    whole = forward_kl(own, exact) - (_tail(own, exact, known.ids) if k < 12 else 0.0)
    (expected,) = torch.autograd.grad(whole, own)
    assert (gradient - expected).abs().max() < 1e-4


def test_a_student_equal_to_its_teacher_loses_nothing() -> None:
    logits, _ = _logits(0, 3.0, 40)
    for part in decoupled_top_k(logits, *TopK.of(logits + 5, 8), temperature=2.0):
        assert abs(part.item()) < 1e-12
    for beta in (0.0, 0.3, 1.0):
        assert abs(generalised_jsd(logits, logits, beta=beta).item()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_teachers_and_whole_vocabularies_stay_finite(dtype: torch.dtype) -> None:
    student = torch.zeros(1, 10, dtype=dtype, requires_grad=True)
    teacher = torch.full((1, 10), -1e4, dtype=dtype)
    teacher[0, 3] = 0
    for k in (1, 4, 10):
        top, ids = teacher.topk(k)
        loss = sum(decoupled_top_k(student, ids, top, teacher.logsumexp(-1), temperature=2.0))
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
    within = F.kl_div((student.gather(-1, ids) / 4).log_softmax(-1), (top / 4).softmax(-1), reduction="none").sum(-1)
    assert torch.allclose(warm[1], (mass * within).mean())


def test_without_distillation_the_loss_is_cross_entropy() -> None:
    student, teacher = _logits(2, 2.0, 30)
    targets = torch.randint(0, 30, (2, 3), generator=torch.Generator().manual_seed(0))
    loss = distilled(student, targets, TopK.of(teacher, 4), share=0.0, temperature=2.0)
    assert torch.allclose(loss, F.cross_entropy(student.flatten(0, 1), targets.flatten()))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), positions=st.integers(1, 20), chunk=st.integers(1, 25), beta=st.none() | st.just(0.4)
)
def test_by_chunks_value_and_gradients_are_those_of_the_whole(
    seed: int, positions: int, chunk: int, beta: float | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, known_hidden = torch.randn(2, 2, positions, 16, generator=generator)
    weight, known_weight = torch.randn(2, 50, 16, generator=generator)
    targets = torch.randint(0, 50, (2, positions), generator=generator)
    teacher = known_hidden @ known_weight.T
    known = TopK.of(teacher, 7)

    def top_k(logits: Tensor, targets: Tensor, *known: Tensor) -> Tensor:
        return distilled(logits, targets, TopK(*known), share=0.7, temperature=2.0)

    def whole(logits: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        return distilled_whole(logits, targets, teacher, share=0.7, beta=0.4, temperature=2.0)

    loss, rows = (top_k, (targets, *known)) if beta is None else (whole, (targets, teacher))
    found = []
    for chunked in (False, True):
        inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trainer.chunked._LOGITS", chunk * 50)
            patch.setattr("trainer.chunked._FEWEST_ROWS", 1)
            value = mean_loss(*inputs, rows, loss) if chunked else loss(F.linear(*inputs), *rows)
        found.append((value, *torch.autograd.grad(3 * value, inputs)))
    for plain, cut in zip(*found, strict=True):
        assert torch.allclose(plain, cut, rtol=1e-5, atol=1e-6)
