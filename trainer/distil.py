"""Distillation losses: decoupled top-K (LFM2, arXiv 2511.23404, section 3.3) and the full forward KL."""

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_LOG_MASS = -1e-7  # below zero, so that the mass outside the top K keeps a finite logarithm


def decoupled_top_k(
    student: Tensor, ids: Tensor, logits: Tensor, logsumexp: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """The two parts of the decoupled loss, in nats, averaged over positions.

    With T the teacher's K likeliest tokens, KL(teacher || student) splits by the chain rule into the KL between the
    masses of T (a Bernoulli), the mass of T times the KL within T, and a tail that is dropped. Only the second part is
    tempered: tempering a distribution that was cut off would compare different supports.

    Args:
        student: the student's logits [..., vocab].
        ids: the teacher's K likeliest tokens [..., K].
        logits: the teacher's logits of `ids` [..., K].
        logsumexp: of all the teacher's logits [...]; without it the mass of T is unknown.
        temperature: of the second part.

    Returns:
        (bernoulli, conditional): KL(Bern(P_T(T)) || Bern(P_S(T))), and P_T(T) KL_tau(P_T(.|T) || P_S(.|T)).
    """
    if student.dtype in (torch.bfloat16, torch.float16):
        # In half precision a mass near one is one, and nothing is left outside it to take the logarithm of.
        student, logits, logsumexp = student.float(), logits.float(), logsumexp.float()
    picked = student.gather(-1, ids)
    log_mass = (logits.logsumexp(-1) - logsumexp).clamp(max=_LARGEST_LOG_MASS)
    log_mass_student = (picked.logsumexp(-1) - student.logsumexp(-1)).clamp(max=_LARGEST_LOG_MASS)
    mass = log_mass.exp()
    bernoulli = mass * (log_mass - log_mass_student) + (1 - mass) * (
        _log_complement(log_mass) - _log_complement(log_mass_student)
    )
    conditional = mass * _kl((logits / temperature).log_softmax(-1), (picked / temperature).log_softmax(-1))
    return bernoulli.mean(), conditional.mean()


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) over the whole vocabulary, both logits [..., vocab]; nats, averaged over positions."""
    return _kl(teacher.log_softmax(-1), student.log_softmax(-1)).mean()


def distilled(
    student: Tensor, targets: Tensor, teacher: Tensor, *, share: float, top_k: int, temperature: float
) -> Tensor:
    """(1 - share) hard-label cross-entropy + share decoupled top-K distillation; logits [..., vocab], targets [...].

    The tempered part is scaled by temperature^2, so that its gradient does not shrink with it (arXiv 1503.02531).
    """
    hard = F.cross_entropy(student.flatten(0, -2), targets.flatten())
    with torch.no_grad():
        logits, ids = teacher.topk(min(top_k, teacher.shape[-1]), dim=-1)
        logsumexp = teacher.logsumexp(-1)
    bernoulli, conditional = decoupled_top_k(student, ids, logits, logsumexp, temperature=temperature)
    return (1 - share) * hard + share * (bernoulli + temperature**2 * conditional)


def _log_complement(log_mass: Tensor) -> Tensor:
    """log(1 - exp(log_mass))."""
    return torch.log1p(-log_mass.exp())


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of log-probabilities, summed over the last axis."""
    return (teacher.exp() * (teacher - student)).sum(-1)
