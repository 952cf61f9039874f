"""Distillation losses on logits: decoupled top-K (LFM2, arXiv 2511.23404, section 3.3), generalised JSD (2306.13649).

All are in nats and averaged over positions. Half precision is raised to float32 before anything is summed.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_ODDS = 80.0  # e^-80 is still a normal float32: a teacher that is certain keeps finite logarithms


class TopK(NamedTuple):
    """What is kept of a teacher's predictions. Logits and logsumexp are relative to the likeliest token's logit.

    A softmax does not see that shift, and a logsumexp near zero keeps more digits of the mass that is left outside.
    """

    ids: Tensor
    """[..., K] int64, the likeliest tokens first."""
    logits: Tensor
    """[..., K], falling from 0."""
    logsumexp: Tensor
    """[...], over the whole vocabulary."""

    @classmethod
    def of(cls, logits: Tensor, k: int) -> "TopK":
        """Of logits [..., vocab]; K is at most the vocabulary."""
        logits = _full(logits)
        top, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
        largest = top[..., :1]
        return cls(ids, top - largest, (logits - largest).logsumexp(-1))

    @classmethod
    def with_odds(cls, ids: Tensor, logits: Tensor, odds: Tensor) -> "TopK":
        """With the logsumexp that gives the K tokens these log-odds against all others, [...]."""
        return cls(ids, logits, logits.logsumexp(-1) + F.softplus(-odds))

    @property
    def odds(self) -> Tensor:
        """log(P(T) / (1 - P(T))) of the K tokens together, [...]; at most 80 either way."""
        log_mass = self.logits.logsumexp(-1) - self.logsumexp
        # By expm1, exact where the mass is near one; what rounding put above one counts as just below.
        log_mass = log_mass.clamp(max=-torch.finfo(log_mass.dtype).tiny)
        return (log_mass - (-torch.expm1(log_mass)).log()).clamp(-_LARGEST_ODDS, _LARGEST_ODDS)


def decoupled_top_k(
    student: Tensor, ids: Tensor, logits: Tensor, logsumexp: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """The two parts of the decoupled loss.

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
    student, logits, logsumexp = _full(student), _full(logits), _full(logsumexp)
    picked = student.gather(-1, ids)
    within = _kl((logits / temperature).log_softmax(-1), (picked / temperature).log_softmax(-1))
    if ids.shape[-1] == student.shape[-1]:
        return student.sum() * 0, within.mean()  # T is the whole vocabulary: nothing is outside
    # Log-odds of T, on both sides: a mass near one has no digits left for what is outside, its odds have all of them.
    odds = picked.logsumexp(-1) - student.scatter(-1, ids, -math.inf).logsumexp(-1)
    odds_teacher = TopK(ids, logits, logsumexp).odds
    mass, rest = odds_teacher.sigmoid(), (-odds_teacher).sigmoid()
    bernoulli = mass * (F.logsigmoid(odds_teacher) - F.logsigmoid(odds))
    bernoulli = bernoulli + rest * (F.logsigmoid(-odds_teacher) - F.logsigmoid(-odds))
    return bernoulli.mean(), (mass * within).mean()


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) over the whole vocabulary, both logits [..., vocab]."""
    return _kl(teacher.log_softmax(-1), student.log_softmax(-1)).mean()


def generalised_jsd(student: Tensor, teacher: Tensor, *, beta: float, temperature: float = 1.0) -> Tensor:
    """beta KL(teacher || M) + (1 - beta) KL(student || M) with M = beta teacher + (1 - beta) student.

    Both are logits [..., vocab]. By convention 0 is the forward KL(teacher || student) and 1 the reverse.
    """
    known = (_full(teacher) / temperature).log_softmax(-1)
    own = (_full(student) / temperature).log_softmax(-1)
    if beta in (0, 1):
        return (_kl(known, own) if beta == 0 else _kl(own, known)).mean()
    mixture = torch.logaddexp(known + math.log(beta), own + math.log1p(-beta))
    return (beta * _kl(known, mixture) + (1 - beta) * _kl(own, mixture)).mean()


def distilled(student: Tensor, targets: Tensor, known: TopK, *, share: float, temperature: float) -> Tensor:
    """(1 - share) hard-label cross-entropy + share decoupled top-K distillation; logits [..., vocab], targets [...].

    The tempered part is scaled by temperature^2, so that its gradient does not shrink with it (arXiv 1503.02531).
    """
    bernoulli, conditional = decoupled_top_k(student, *known, temperature=temperature)
    return _shared(student, targets, bernoulli + temperature**2 * conditional, share)


def distilled_whole(
    student: Tensor, targets: Tensor, teacher: Tensor, *, share: float, beta: float, temperature: float
) -> Tensor:
    """(1 - share) hard-label cross-entropy + share temperature^2 generalised JSD with the teacher's logits."""
    soft = temperature**2 * generalised_jsd(student, teacher, beta=beta, temperature=temperature)
    return _shared(student, targets, soft, share)


def _shared(student: Tensor, targets: Tensor, soft: Tensor, share: float) -> Tensor:
    if share == 1:
        return soft
    hard = F.cross_entropy(_full(student).flatten(0, -2), targets.flatten())
    return (1 - share) * hard + share * soft


def _full(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of log-probabilities, summed over the last axis."""
    return (teacher.exp() * (teacher - student)).sum(-1)
