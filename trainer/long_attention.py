"""Attention over sequences too long for a mask: document by document, in memory that grows with the length alone.

A mask of T x T bytes is 16 GiB at 131,072 positions. Documents lie in runs and see only themselves, so each run is a
causal attention of its own, which torch computes block by block without ever holding its logits (arXiv 2205.14135).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 1024
"""From this many positions on, documents are kept apart by cutting; below, a mask takes less time than many calls."""


def spans(documents: Tensor) -> list[list[int]]:
    """Lengths of the documents of every row of `documents` [B, T], in order."""
    return [_lengths(row) for row in documents]


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: list[list[int]]) -> Tensor:
    """Causal attention within each document: q [B, heads, T, d], k and v [B, kv_heads, T, d] -> [B, heads, T, d].

    `lengths` is what `spans` gives. Only CPU's kernel shares keys among heads in linear memory for every type, so
    elsewhere they are repeated.
    """
    groups = q.shape[1] // k.shape[1]
    if q.device.type != "cpu" and groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    rows = [_row(*row) for row in zip(q.unbind(), k.unbind(), v.unbind(), lengths, strict=True)]
    return torch.stack(rows)


def _row(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    # `split` rather than slices: its backward joins the parts' gradients once, a slice's fills a whole tensor each.
    parts = zip(*(x[None].split(lengths, dim=2) for x in (q, k, v)), strict=True)
    shared = q.shape[0] != k.shape[0]
    mixed = [F.scaled_dot_product_attention(a, b, c, is_causal=True, enable_gqa=shared) for a, b, c in parts]
    return torch.cat(mixed, dim=2)[0]


def _lengths(row: Tensor) -> list[int]:
    changes = (row[1:] != row[:-1]).nonzero().flatten() + 1
    return [end - start for start, end in pairwise([0, *changes.tolist(), len(row)])]
