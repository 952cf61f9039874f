"""How logits become a token.

The order is vLLM's (`vllm/v1/sample/sampler.py`): bias, bans, penalties, temperature, min-p, top-k, top-p. The formulas
are those of transformers' logits processors: repetition (arXiv 1909.05858), min-p (arXiv 2407.01082), top-p (arXiv
1904.09751); presence and frequency are OpenAI's. The one random number of a token is a hash of seed and index, and the
token is where the cumulated probabilities pass it, so a choice depends on nothing else.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.generation.params import SamplingParams


@dataclass(frozen=True)
class Choice:
    """A token, its log-probability under the model and under the sampler, and the model's likeliest."""

    token: int
    logprob: float
    sampler_logprob: float
    top: tuple[tuple[int, float], ...] = ()


def uniform(seed: int, index: int) -> float:
    """A number of [0, 1) for the index-th token of a request: 53 bits of a hash."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def seed_of_sample(seed: int, sample: int) -> int:
    """The seed of one of several answers to one prompt; the first keeps the request's own."""
    if sample == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}#{sample}".encode()).digest()[:7], "big")


_COLD = 1e-5  # vLLM's: below it, dividing by the temperature overflows, and the choice is greedy anyway

Asked = tuple[SamplingParams, Sequence[int], Sequence[int]]
"""What a row is chosen for: parameters, prompt, and answer so far."""


def choose(logits: Tensor, asked: Sequence[Asked]) -> list[Choice]:
    """The next token of each request, from the model's logits [len(asked), vocab] in float32."""
    raw = torch.log_softmax(logits, dim=-1)
    likeliest = logits.argmax(dim=-1).tolist()
    drawn = [_draw(row, best, *one) for row, best, one in zip(logits, likeliest, asked, strict=True)]
    tokens = torch.tensor([[token] for token, _ in drawn], device=raw.device)
    logprobs = raw.gather(1, tokens).flatten().tolist()
    return [
        Choice(token, logprob, sampler, _top(row, params.logprobs))
        for (token, sampler), logprob, row, (params, _, _) in zip(drawn, logprobs, raw, asked, strict=True)
    ]


def _draw(
    logits: Tensor, likeliest: int, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int]
) -> tuple[int, float]:
    scores = penalised(logits, params, prompt, answer)
    if params.temperature >= _COLD:
        return draw(*distribution(scores, params), uniform(params.seed, len(answer)))
    return likeliest if scores is logits else int(scores.argmax()), 0.0


def _top(logprobs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if count == 0:
        return ()
    values, indices = logprobs.topk(min(count, len(logprobs)))
    return tuple(zip(indices.tolist(), values.tolist(), strict=True))


def penalised(logits: Tensor, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Logits [vocab] after bias, bans and penalties; the argument itself where there are none."""
    scores = logits
    if params.logit_bias:
        scores = scores.clone()
        for token, bias in params.logit_bias:
            if token < len(scores):
                scores[token] += bias
    if params.no_repeat_ngram:
        banned = _would_repeat([*prompt, *answer], params.no_repeat_ngram)
        if 0 < len(banned) < len(scores):  # where every token is banned, none is
            scores = scores.index_fill(0, torch.tensor(banned, device=scores.device), -torch.inf)
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt, *answer}), device=scores.device)
        found = scores[seen]
        penalty = params.repetition_penalty
        scores = scores.index_copy(0, seen, torch.where(found < 0, found * penalty, found / penalty))
    if answer and (params.presence_penalty or params.frequency_penalty):
        counts = Counter(answer)
        said = torch.tensor(list(counts), device=scores.device)
        times = torch.tensor(list(counts.values()), dtype=scores.dtype, device=scores.device)
        scores = scores.index_add(0, said, -params.presence_penalty - params.frequency_penalty * times)
    return scores


def distribution(scores: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [n] of what may be drawn after temperature and cuts; their tokens [n], or None: all, in order.

    Among equals, a cut keeps the lower ids. At least one token is kept.
    """
    scores = scores / params.temperature
    if params.min_p == 0 and params.top_k == 0 and params.top_p == 1:
        return torch.log_softmax(scores, dim=-1), None
    tokens = None
    if params.top_k and params.top_k < len(scores):
        least = scores.topk(params.top_k).values[-1]
        tokens = (scores >= least).nonzero().flatten()  # may hold more: equals of the last
        scores = scores[tokens]
    scores, order = scores.sort(descending=True, stable=True)
    tokens = order if tokens is None else tokens[order]
    kept = len(scores) if not params.top_k else min(params.top_k, len(scores))
    if params.min_p:
        # Ratios of probabilities are differences of scores: what was cut before does not matter.
        kept = min(kept, max(1, int(((scores - scores[0]).exp() >= params.min_p).sum())))
    scores = scores[:kept]
    if params.top_p < 1:
        before = scores.double().softmax(dim=-1).cumsum(dim=-1).roll(1)
        before[0] = 0
        scores = scores[: max(1, int((before < params.top_p).sum()))]
    return torch.log_softmax(scores, dim=-1), tokens[: len(scores)]


def draw(logprobs: Tensor, tokens: Tensor | None, u: float) -> tuple[int, float]:
    """The token at which the cumulated probabilities pass `u`, and its log-probability."""
    cumulated = logprobs.double().exp().cumsum(dim=-1)
    index = int(torch.searchsorted(cumulated, u * cumulated[-1:], right=True))
    index = min(index, len(logprobs) - 1)
    return index if tokens is None else int(tokens[index]), float(logprobs[index])


def _would_repeat(tokens: list[int], n: int) -> list[int]:
    """The tokens that would complete an n-gram which is there already (as transformers' NoRepeatNGram)."""
    if len(tokens) + 1 < n:
        return []
    ending = tokens[len(tokens) - n + 1 :]
    starts = range(len(tokens) - n + 1)
    return sorted({tokens[i + n - 1] for i in starts if tokens[i : i + n - 1] == ending})
