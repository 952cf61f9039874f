"""Attention from the projections on: QK-norm, RoPE, a KV cache of float16 or int8, softmax, in one operator.

Our native runner brings it (device_agent/runner/native/attention.h); here is its eager meaning. ExecuTorch's
`llama.custom_sdpa` wants caches of the queries' own type, and what surrounds it (views, norms over heads, slices of
RoPE's tables) falls to XNNPACK in small pieces that take longer than the attention itself. RoPE's angles are computed
from the frequencies where they are needed, so that nothing as long as the context is stored but the cache.

New rows are rounded once as they are written, and read as float32: int8 rows have one symmetric scale per position and
head,

    scale = max|row| / 127,  q = round(row / scale) to the nearest, ties to even.

Shapes: query [1, S, heads * head_dim], key and value [1, S, kv_heads * head_dim], weights of the norms [head_dim],
their eps [1], frequencies [head_dim / 2] in radians per position, position int64 [1] of the first row, caches
[1, L, kv_heads, head_dim], scales float32 [1, L, kv_heads]; row i sees positions 0 .. position + i.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from trainer.rope import rotate

_NEW = "Tensor query, Tensor key, Tensor value"
_HOW = "Tensor query_norm, Tensor key_norm, Tensor eps, Tensor frequencies, Tensor position"
_CACHES = "Tensor(a!) keys, Tensor(b!) values"
_SCALES = "Tensor(c!) key_scales, Tensor(d!) value_scales"
_LIBRARY = torch.library.Library("fulcrum", "DEF")
for _name, _given in (
    ("roped_attention", f"{_NEW}, {_HOW}, {_CACHES}"),
    ("roped_attention_int8", f"{_NEW}, {_HOW}, {_CACHES}, {_SCALES}"),
):
    _LIBRARY.define(f"{_name}({_given}) -> Tensor")
    _LIBRARY.define(f"{_name}.out({_given}, *, Tensor(e!) out) -> Tensor(e!)")


class _Rows(NamedTuple):
    """Queries, keys and values [1, S, heads, head_dim] as they meet, from position `start` on."""

    query: Tensor
    key: Tensor
    value: Tensor
    start: int

    @property
    def end(self) -> int:
        return self.start + self.query.shape[1]

    def attend(self, keys: Tensor, values: Tensor) -> Tensor:
        """Causal attention over float32 [1, end, kv_heads, head_dim]; [1, S, heads * head_dim]."""
        mask = torch.ones(self.query.shape[1], self.end, dtype=torch.bool).tril(diagonal=self.start)
        q, k, v = (x.transpose(1, 2) for x in (self.query, keys, values))
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2).flatten(2)


def _rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_norm: Tensor,
    key_norm: Tensor,
    eps: Tensor,
    frequencies: Tensor,
    position: Tensor,
) -> _Rows:
    dim, start = query_norm.shape[0], int(position)
    angles = torch.arange(start, start + query.shape[1]).float()[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)

    def prepared(x: Tensor, norm: Tensor) -> Tensor:
        heads = rms_norm(x.unflatten(2, (-1, dim)), (dim,), norm, eps.item())
        return rotate(heads.transpose(1, 2), angles.cos(), angles.sin()).transpose(1, 2)

    return _Rows(prepared(query, query_norm), prepared(key, key_norm), value.unflatten(2, (-1, dim)), start)


def _attention(*given: Tensor) -> Tensor:
    *new, keys, values = given
    rows = _rows(*new)
    keys[:, rows.start : rows.end] = rows.key.to(keys.dtype)
    values[:, rows.start : rows.end] = rows.value.to(values.dtype)
    return rows.attend(keys[:, : rows.end].float(), values[:, : rows.end].float())


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [..., head_dim], scales float32 [...]) of rows [..., head_dim]; a row of zeros has scale 0."""
    scales = rows.abs().amax(-1) / 127
    quantised = torch.where(scales[..., None] > 0, (rows / scales[..., None]).round(), 0.0)
    return quantised.to(torch.int8), scales


def _attention_int8(*given: Tensor) -> Tensor:
    *new, keys, values, key_scales, value_scales = given
    rows = _rows(*new)
    start, end = rows.start, rows.end
    keys[:, start:end], key_scales[:, start:end] = quantise_rows(rows.key)
    values[:, start:end], value_scales[:, start:end] = quantise_rows(rows.value)
    k, v = (q[:, :end] * s[:, :end, :, None] for q, s in ((keys, key_scales), (values, value_scales)))
    return rows.attend(k, v)


def _shaped_as_query(query: Tensor, *_: object) -> Tensor:
    return torch.empty_like(query)


for _name, _eager in (("roped_attention", _attention), ("roped_attention_int8", _attention_int8)):
    _LIBRARY.impl(_name, _eager, "CPU")
    _LIBRARY.impl(_name, _shaped_as_query, "Meta")
