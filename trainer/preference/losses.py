"""Losses of preferences: of what a policy and its reference give the chosen and the rejected answer of each pair.

sigmoid: DPO (arXiv 2305.18290, eq. 7). sigmoid_norm: the same of log-ratios per token, so that length earns nothing.
apo_zero: raises the chosen and lowers the rejected, each against the reference (arXiv 2408.06266, eq. 7). simpo: the
mean log-probability of a token, without a reference, and a margin (arXiv 2405.14734, eq. 6). Their names, and how a mix
is summed, are TRL's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.options import LossName, LossTerm


@dataclass(frozen=True)
class Answers:
    """One side of N pairs: summed log-probabilities of the policy and of its reference in nats, and tokens; [N] each.

    `reference` is None where a loss has none.
    """

    policy: Tensor
    reference: Tensor | None
    tokens: Tensor

    @property
    def ratio(self) -> Tensor:
        """log policy / reference."""
        if self.reference is None:
            raise ValueError("this loss compares a policy with its reference, and there are no figures of one")
        return self.policy - self.reference


def _sigmoid(chosen: Answers, rejected: Answers, term: LossTerm) -> Tensor:
    return -F.logsigmoid(term.beta * (chosen.ratio - rejected.ratio))


def _sigmoid_norm(chosen: Answers, rejected: Answers, term: LossTerm) -> Tensor:
    apart = chosen.ratio / chosen.tokens.clamp(min=1) - rejected.ratio / rejected.tokens.clamp(min=1)
    return -F.logsigmoid(term.beta * apart)


def _apo_zero(chosen: Answers, rejected: Answers, term: LossTerm) -> Tensor:
    return 1 - torch.sigmoid(term.beta * chosen.ratio) + torch.sigmoid(term.beta * rejected.ratio)


def _simpo(chosen: Answers, rejected: Answers, term: LossTerm) -> Tensor:
    apart = chosen.policy / chosen.tokens.clamp(min=1) - rejected.policy / rejected.tokens.clamp(min=1)
    return -F.logsigmoid(term.beta * apart - term.gamma)


_LOSSES: dict[LossName, Callable[[Answers, Answers, LossTerm], Tensor]] = {
    "sigmoid": _sigmoid,
    "sigmoid_norm": _sigmoid_norm,
    "apo_zero": _apo_zero,
    "simpo": _simpo,
}


def preference_loss(chosen: Answers, rejected: Answers, terms: Sequence[LossTerm]) -> Tensor:
    """The weighted sum of the terms' means over the pairs.

    Raises:
        ValueError: a term compares with a reference of which there are no figures.
    """
    values = [term.weight * _LOSSES[term.loss](chosen, rejected, term).mean() for term in terms]
    return torch.stack(values).sum()
