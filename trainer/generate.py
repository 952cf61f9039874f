"""Generation with the cache, and the check of tokens that somebody else generated."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.cache import Cache
from trainer.errors import TrainerError
from trainer.model import HybridLM


class EmptyPrompt(TrainerError):
    """A prompt without tokens: there is nothing to continue."""

    slug = "empty-prompt"


@torch.no_grad()
def greedy(
    model: HybridLM,
    prompt: Sequence[int],
    new_tokens: int,
    *,
    end: int | None = None,
    chunk: int = 512,
    heard: Callable[[int], None] | None = None,
) -> list[int]:
    """Continue `prompt` by the likeliest token each time, up to `new_tokens` or until `end` (which is left out).

    Ties go to the lowest id. `heard` is told each token as it comes.

    Raises:
        EmptyPrompt: no prompt.
    """
    _refuse_empty(prompt)
    cache = Cache(model.architecture, capacity=len(prompt) + max(0, new_tokens), dtype=_dtype(model))
    tokens: list[int] = []
    pending = torch.tensor([list(prompt)])
    while len(tokens) < new_tokens:
        for part in pending.split(chunk, dim=1):
            logits = model(part, cache=cache, last_only=True)
        chosen = int(logits[0, -1].argmax())
        if chosen == end:
            break
        tokens.append(chosen)
        if heard:
            heard(chosen)
        pending = torch.tensor([[chosen]])
    return tokens


@torch.no_grad()
def teacher_forced(model: HybridLM, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Logits [len(tokens), vocab]: row i is what the model thinks after the prompt and tokens[:i].

    Raises:
        EmptyPrompt: no prompt.
    """
    _refuse_empty(prompt)
    if not tokens:
        return torch.empty(0, model.architecture.vocab_size)
    read = torch.tensor([[*prompt, *tokens[:-1]]])
    logits: Tensor = model(read)[0, len(prompt) - 1 :]
    return logits


def _refuse_empty(prompt: Sequence[int]) -> None:
    if not prompt:
        raise EmptyPrompt("the prompt has no tokens", advice="start with the end-of-text token or with some text")


def _dtype(model: HybridLM) -> torch.dtype:
    return model.model.embed_tokens.weight.dtype
