"""The check of tokens that somebody else generated."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.generation.errors import EmptyPrompt
from trainer.model import HybridLM


@torch.no_grad()
def teacher_forced(model: HybridLM, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Logits [len(tokens), vocab]: row i is what the model thinks after the prompt and tokens[:i].

    Raises:
        EmptyPrompt: no prompt.
    """
    if not prompt:
        raise EmptyPrompt("the prompt has no tokens", advice="start with the end-of-text token or with some text")
    if not tokens:
        return torch.empty(0, model.architecture.vocab_size)
    read = torch.tensor([[*prompt, *tokens[:-1]]])
    logits: Tensor = model(read)[0, len(prompt) - 1 :]
    return logits
