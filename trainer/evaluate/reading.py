"""How well a model reads: of every token, how surprising it was, and whether it was the likeliest."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM

HEAD_CHUNK = 1024  # positions whose logits are held at once


@torch.no_grad()
def losses(model: HybridLM, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(cross-entropy in nats, whether the likeliest token is the target), [B, T] each; 0 and False where `IGNORED`."""
    h = model.hidden(tokens, documents=documents)
    nats, right = torch.zeros(targets.numel()), torch.zeros(targets.numel(), dtype=torch.bool)
    asked = (targets.flatten() != IGNORED).nonzero().flatten()
    flat, wanted = h.flatten(0, 1), targets.flatten()
    for places in asked.split(HEAD_CHUNK):
        logits = model.logits(flat[places])
        nats[places] = F.cross_entropy(logits, wanted[places], reduction="none").float().cpu()
        right[places] = (logits.argmax(-1) == wanted[places]).cpu()
    return nats.view(targets.shape), right.view(targets.shape)
