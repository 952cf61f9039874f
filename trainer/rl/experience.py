"""Answers as tensors, and the policy's loss over them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.data import Batch
from trainer.linear import linear
from trainer.linear_cross_entropy import IGNORED, most_rows
from trainer.model import HybridLM, computed_again
from trainer.rl.asking import Answer
from trainer.rl.losses import PolicyLoss


@dataclass(frozen=True)
class Experience:
    """The answers of a step, right-padded: positions of `batch` whose target is an answer's token are learnt from.

    `sampler`, `old` and `reference` are log-probabilities [N, T] of the targets; `advantages` are [N].
    """

    batch: Batch
    mask: Tensor
    sampler: Tensor
    advantages: Tensor
    old: Tensor = field(default_factory=lambda: torch.empty(0))
    reference: Tensor | None = None
    correction: Tensor | None = None

    @classmethod
    def of(cls, answers: Sequence[Answer], advantages: Tensor, end: int, *, mask_truncated: bool) -> "Experience":
        """Padded with `end`; truncated answers are not learnt from with `mask_truncated`."""
        longest = max(len(answer.prompt) + len(answer.tokens) for answer in answers) - 1
        shape = (len(answers), longest)
        inputs = torch.full(shape, end)
        targets = torch.full(shape, IGNORED)
        sampler = torch.zeros(shape)
        for row, answer in enumerate(answers):
            whole = torch.tensor(answer.prompt + answer.tokens)
            inputs[row, : len(whole) - 1] = whole[:-1]
            if mask_truncated and answer.truncated:
                continue
            said = slice(len(answer.prompt) - 1, len(whole) - 1)
            targets[row, said] = torch.tensor(answer.tokens)
            sampler[row, said] = torch.tensor(answer.logprobs)
        batch = Batch(inputs, targets, None, torch.arange(len(answers)))
        return cls(batch, (targets != IGNORED).float(), sampler, advantages)

    def rows(self, chosen: Tensor) -> Batch:
        """Of some answers; `indices` are their places among all."""
        return Batch(self.batch.inputs[chosen], self.batch.targets[chosen], None, chosen)


@dataclass
class Objective:
    """The loss of mini-batches of an experience, as `take_step` asks for it, and what was seen meanwhile."""

    experience: Experience
    loss: PolicyLoss
    temperature: float
    answer: int
    """Tokens an answer could have."""
    tokens: float = 0.0
    """Of the mini-batch that is being learnt from."""
    answers: int = 0
    """Of the same."""
    seen: list[tuple[float, float, float, float]] = field(default_factory=list)
    """(clipped, KL, entropy, tokens) of every part."""

    def begin(self, chosen: Tensor) -> Batch:
        """The mini-batch of these answers."""
        self.tokens, self.answers = float(self.experience.mask[chosen].sum()), len(chosen)
        return self.experience.rows(chosen)

    def __call__(self, model: HybridLM, batch: Batch) -> Tensor:
        """The loss of a part of it: weighted by its rows, the parts sum to the whole's."""
        known, at = self.experience, batch.indices.cpu()
        device = batch.inputs.device
        logprobs, entropy = token_logprobs(model, batch, self.temperature)
        mask = known.mask[at].to(device)

        def there(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[at].to(device)

        found = self.loss(
            logprobs,
            known.old[at].to(device),
            known.advantages[at].to(device),
            mask,
            reference=there(known.reference),
            correction=there(known.correction),
            tokens=self.tokens * len(at) / self.answers,
            longest=self.answer,
        )
        count = float(mask.sum())
        seen = (float(found.clipped), float(found.kl), float((entropy * mask).sum()) / max(1.0, count), count)
        self.seen.append(seen)
        return found.loss

    def figures(self) -> dict[str, float]:
        """Means over tokens of what was seen: the share that was clipped, KL, entropy."""
        count = max(1.0, sum(tokens for *_, tokens in self.seen))
        names = ("clipped", "kl", "entropy")
        return {name: sum(each[at] * each[3] for each in self.seen) / count for at, name in enumerate(names)}


def token_logprobs(model: HybridLM, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(log-probability of every target [N, T] with gradients, entropy [N, T] without), 0 where targets are IGNORED.

    Of the model at this temperature, in nats and float32. Logits are made and forgotten chunk by chunk.
    """
    counted = batch.targets != IGNORED
    rows, weight = model.head_factors(model.hidden(batch.inputs)[counted])
    labels = batch.targets[counted]
    size = most_rows(len(weight))
    parts = [
        computed_again(_read, rows[start : start + size], weight, labels[start : start + size], temperature)
        for start in range(0, max(1, len(rows)), size)  # of none too, so that there is something to differentiate
    ]
    found = torch.cat(parts)
    empty = torch.zeros(batch.targets.shape, dtype=torch.float32, device=rows.device)
    return empty.masked_scatter(counted, found[:, 0]), empty.masked_scatter(counted, found[:, 1].detach())


def _read(rows: Tensor, weight: Tensor, labels: Tensor, temperature: float) -> Tensor:
    logarithms = (linear(rows, weight).float() / temperature).log_softmax(-1)
    entropy = -(logarithms.exp() * logarithms).sum(-1)
    return torch.stack((logarithms.gather(1, labels[:, None])[:, 0], entropy), dim=-1)
