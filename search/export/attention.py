"""Attention over a KV cache of float16 or int8: operators that our native runner brings, with their eager meaning.

ExecuTorch's `llama.custom_sdpa` wants caches of the queries' own type, and its quantised sibling wants quantised
queries; so the runner has kernels of its own (device_agent/runner/native/attention.h). In both, new rows are rounded
once as they are written, and read as float32: int8 rows have one symmetric scale per position and head,

    scale = max|row| / 127,  q = round(row / scale) to the nearest, ties to even.

Shapes: query [1, S, heads, head_dim], key and value [1, S, kv_heads, head_dim], caches [1, L, kv_heads, head_dim],
scales float32 [1, L, kv_heads]; row i stands at position start + i and sees positions 0 .. start + i.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_NEW = "Tensor query, Tensor key, Tensor value, Tensor(a!) keys, Tensor(b!) values"
_SCALES = "Tensor(c!) key_scales, Tensor(d!) value_scales"
_LIBRARY = torch.library.Library("fulcrum", "DEF")
_LIBRARY.define(f"attention({_NEW}, SymInt start) -> Tensor")
_LIBRARY.define(f"attention.out({_NEW}, SymInt start, *, Tensor(e!) out) -> Tensor(e!)")
_LIBRARY.define(f"attention_int8({_NEW}, {_SCALES}, SymInt start) -> Tensor")
_LIBRARY.define(f"attention_int8.out({_NEW}, {_SCALES}, SymInt start, *, Tensor(e!) out) -> Tensor(e!)")


def _attend(query: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    """Causal attention of [1, S, H, D] over float32 [1, start + S, KV, D]."""
    length, seen = query.shape[1], keys.shape[1]
    mask = torch.ones(length, seen, dtype=torch.bool).tril(diagonal=start)
    q, k, v = (x.transpose(1, 2) for x in (query, keys, values))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def _attention(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    end = start + query.shape[1]
    keys[:, start:end] = key.to(keys.dtype)
    values[:, start:end] = value.to(values.dtype)
    return _attend(query, keys[:, :end].float(), values[:, :end].float(), start)


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [..., head_dim], scales float32 [...]) of rows [..., head_dim]; a row of zeros has scale 0."""
    scales = rows.abs().amax(-1) / 127
    quantised = torch.where(scales[..., None] > 0, (rows / scales[..., None]).round(), 0.0)
    return quantised.to(torch.int8), scales


def _attention_int8(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor,
    value_scales: Tensor,
    start: int,
) -> Tensor:
    end = start + query.shape[1]
    keys[:, start:end], key_scales[:, start:end] = quantise_rows(key)
    values[:, start:end], value_scales[:, start:end] = quantise_rows(value)
    k, v = (q[:, :end] * s[:, :end, :, None] for q, s in ((keys, key_scales), (values, value_scales)))
    return _attend(query, k, v, start)


def _shaped_as_query(query: Tensor, *_: object) -> Tensor:
    return torch.empty_like(query)


for _name, _eager in (("attention", _attention), ("attention_int8", _attention_int8)):
    _LIBRARY.impl(_name, _eager, "CPU")
    _LIBRARY.impl(_name, _shaped_as_query, "Meta")
