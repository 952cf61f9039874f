"""Policy losses without a critic: GRPO (arXiv 2402.03300) and its corrections.

Dr. GRPO (2503.20783): no division by an answer's own length, nor by the group's deviation. DAPO (2503.14476): clipping
that is wider above, and the mean over all tokens of a batch. GSPO (2507.18071): one ratio for a whole sequence. CISPO
(2506.13585): the ratio is a weight that is cut off, and every token keeps its gradient.

Answers are rows [B, T], right-padded; `mask` [B, T] is 1 at tokens that count. All are in nats.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]
Level = Literal["token", "sequence"]
Scale = Literal["group", "batch", "none"]
_SMALL = 1e-4  # beside a deviation, TRL's


@dataclass(frozen=True)
class PolicyLoss:
    """How answers of known advantage move a policy.

    aggregation: grpo is the mean over answers of their tokens' means; bnpo the mean over the tokens at hand; dr_grpo
    the sum over the tokens that the answers could have had; dapo the sum over the tokens of the whole batch, of which
    a call may see a part; cispo the same with a detached ratio.
    """

    aggregation: Aggregation = "dapo"
    level: Level = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    """With cispo the largest weight itself, without it what is added to one."""
    delta: float | None = None
    """The largest ratio of a token whose advantage is negative (two-sided clipping, arXiv 2505.07291)."""
    kl: float = 0.0
    """Weight of the KL to the reference."""

    def __call__(
        self,
        logprobs: Tensor,
        old: Tensor,
        advantages: Tensor,
        mask: Tensor,
        *,
        reference: Tensor | None = None,
        correction: Tensor | None = None,
        tokens: float | Tensor | None = None,
        longest: int | None = None,
    ) -> "PolicyValue":
        """The loss of answers, of which `logprobs` carries the gradient.

        Args:
            logprobs: of the tokens under the policy, [B, T].
            old: the same before the first update on these answers, [B, T].
            advantages: [B] or [B, T].
            mask: [B, T].
            reference: log-probabilities of a fixed model [B, T]; needed for a KL.
            correction: weights against a sampler that was another policy, [B, T] or [B, 1]; see `truncated_importance`.
            tokens: that count in the whole batch, for dapo and cispo; those of `mask` without.
            longest: tokens an answer could have, for dr_grpo; T without.

        Raises:
            ValueError: a KL is wanted, and there is no reference.
        """
        known = advantages[:, None] if advantages.dim() == 1 else advantages
        ratio = self._ratio(logprobs - old, mask)
        if self.aggregation == "cispo":
            losses = -ratio.clamp(max=self.clip_high).detach() * known * logprobs
            clipped = (ratio > self.clip_high) & (known > 0)
        else:
            bounded = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
            kept = ratio if self.delta is None else ratio.clamp(max=self.delta)
            low, high = kept < 1 - self.clip_low, kept > 1 + self.clip_high
            clipped = (low & (known < 0)) | (high & (known > 0))
            losses = -torch.min(kept * known, bounded * known)
        if correction is not None:
            losses = losses * correction
        divergence = torch.zeros_like(mask, dtype=logprobs.dtype)
        if self.kl:
            if reference is None:
                raise ValueError("a KL needs the reference's log-probabilities")
            divergence = kl_k3(logprobs, reference)
            losses = losses + self.kl * divergence
        counted = torch.broadcast_to(losses, mask.shape) * mask
        loss = self._aggregated(counted, mask, tokens, longest)
        return PolicyValue(loss, _mean(clipped.to(mask.dtype), mask), _mean(divergence.detach(), mask))

    def _ratio(self, moved: Tensor, mask: Tensor) -> Tensor:
        """[B, T], or [B, 1] of sequences: the geometric mean over their tokens (GSPO, eq. 7)."""
        if self.level == "token":
            return moved.exp()
        return ((moved * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).exp()

    def _aggregated(self, counted: Tensor, mask: Tensor, tokens: float | Tensor | None, longest: int | None) -> Tensor:
        match self.aggregation:
            case "grpo":
                return (counted.sum(-1) / mask.sum(-1).clamp(min=1)).mean()
            case "bnpo":
                return counted.sum() / mask.sum().clamp(min=1)
            case "dr_grpo":
                return counted.sum() / (len(mask) * (longest or mask.shape[1]))
            case "dapo" | "cispo":
                whole = mask.sum() if tokens is None else torch.as_tensor(tokens, device=mask.device)
                return counted.sum() / whole.clamp(min=1)


@dataclass(frozen=True)
class PolicyValue:
    """A loss, which near the sampling policy is about zero whatever its gradient is, and what is worth watching."""

    loss: Tensor
    clipped: Tensor
    """Share of tokens (of answers, where those have one ratio) whose gradient was cut off."""
    kl: Tensor
    """Mean over tokens, 0 where it is not wanted."""


def advantages_of(rewards: Tensor, scale: Scale = "group") -> Tensor:
    """How much better each answer was than its group, [groups, samples] -> the same.

    Divided by the deviation (n - 1) of its group, of the batch, or by nothing (Dr. GRPO).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "none":
        return centred
    spread = rewards.std(dim=1, keepdim=True) if scale == "group" else rewards.std()
    return centred / (spread + _SMALL)


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) at tokens the policy drew: never negative, unbiased."""
    apart = reference - logprobs
    return apart.exp() - apart - 1


def truncated_importance(old: Tensor, sampler: Tensor, mask: Tensor, *, most: float, level: Level = "token") -> Tensor:
    """policy / sampler of tokens [B, T], or of whole answers [B, 1], at most `most`; no gradients.

    It corrects answers that another policy drew: an older one, or the same in other arithmetic.
    """
    apart = (old - sampler).detach() * mask
    if level == "sequence":
        apart = apart.sum(-1, keepdim=True)
    return apart.exp().clamp(max=most)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    if values.shape[1] == 1 and mask.shape[1] != 1:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp(min=1)
