"""The model's forward and backward pass in memory that grows with the length alone, and slowly: for long sequences.

Between layers only their inputs are kept and the rest is computed again in the backward pass (arXiv 1604.06174).
What looks at each position alone, the SwiGLU and the head with its loss, is done a chunk of positions after the other.
`trainer.memory` says what all of it takes.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.data import Batch
from trainer.model import HybridLM, Layer, Pass

FFN_CHUNK, HEAD_CHUNK = 4096, 1024  # positions
IGNORED = -100
"""A target that no loss is taken of, as in torch's cross-entropy."""


def hidden(model: HybridLM, tokens: Tensor, documents: Tensor | None) -> Tensor:
    """What `HybridLM.hidden` gives of tokens [B, T], with its gradients: [B, T, width]."""
    shared = Pass(0, tokens.shape[1], model.architecture.rope, tokens.device, documents)
    x = model.model.embed_tokens(tokens)
    for layer in model.model.layers:
        x = _again(_layer, layer, x, shared)
    out: Tensor = model.model.embedding_norm(x)
    return out


def hard_labels(model: HybridLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next token in nats, over the targets that are not `IGNORED`."""
    h = hidden(model, batch.inputs, batch.documents)
    counted = (batch.targets != IGNORED).sum()
    total = torch.stack([_again(_nats, model, *part).sum() for part in _chunks(h, batch.targets, HEAD_CHUNK)])
    return total.sum() / counted


@torch.no_grad()
def losses(model: HybridLM, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(cross-entropy in nats, whether the likeliest token is the target), [B, T] each; 0 and False where `IGNORED`."""
    h = hidden(model, tokens, documents)
    nats, right = torch.zeros(targets.numel()), torch.zeros(targets.numel(), dtype=torch.bool)
    asked = (targets.flatten() != IGNORED).nonzero().flatten()
    flat, wanted = h.flatten(0, 1), targets.flatten()
    for places in asked.split(HEAD_CHUNK):
        logits = model.logits(flat[places])
        nats[places] = F.cross_entropy(logits, wanted[places], reduction="none").float().cpu()
        right[places] = (logits.argmax(-1) == wanted[places]).cpu()
    return nats.view(targets.shape), right.view(targets.shape)


def _layer(layer: Layer, x: Tensor, shared: Pass) -> Tensor:
    x = x + layer.get_submodule(layer.operator_name)(layer.operator_norm(x), shared, None)
    return torch.cat([_again(_ffn, layer, part) for part in x.split(FFN_CHUNK, dim=1)], dim=1)


def _ffn(layer: Layer, x: Tensor) -> Tensor:
    out: Tensor = x + layer.feed_forward(layer.ffn_norm(x))
    return out


def _nats(model: HybridLM, h: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(h), targets, ignore_index=IGNORED, reduction="none")


def _chunks(h: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(h.flatten(0, 1).split(size), targets.flatten().split(size), strict=True)


def _again(function: object, *inputs: object) -> Tensor:
    """The function's value; its insides are computed a second time when gradients are asked for."""
    out: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return out
