"""Attention over slots, exact to the bit whatever is computed together.

A row's scores are independent dot products; their maximum has no rounding; exponentials are taken against it. What is
summed (weights, and weighted values) is summed within tiles of fixed positions and then tile after tile. A tile that a
row does not see adds zeros, so neither padding, nor chunks, nor who shares a product changes a row. Rows that share a
prefix meet one copy of it in one product (as in Hydragen, arXiv 2402.05099), and carry their sums on over what is
their own: since the maximum is that of the whole row, nothing has to be rescaled where the parts meet.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.generation.plan import TILE, Chunk, Plan, Run, whole_tiles
from trainer.generation.state import KVSlots


class TiledAttention:
    """Grouped-query attention of scaled, rotated queries over the slots of one layer."""

    def __init__(self) -> None:
        self.tile = 1
        """Rows of a batched product are padded to its multiples."""

    def __call__(self, q: Tensor, state: KVSlots, plan: Plan, rows: int) -> Tensor:
        """q [count, kv_heads, groups, head_dim] -> [rows, kv_heads * groups * head_dim], zeros beyond count."""
        out = q.new_zeros(rows, *q.shape[1:])
        for run in plan.runs:
            part = slice(run.row, run.row + run.count)
            out[part] = self._single(q[part], state, plan, run)
        for chunk in plan.chunks:
            part = slice(chunk.row, chunk.row + chunk.count)
            out[part] = self._chunk(q[part], state, plan, chunk)
        return out.flatten(1)

    def _chunk(self, q: Tensor, state: KVSlots, plan: Plan, chunk: Chunk) -> Tensor:
        count, heads, groups, head_dim = q.shape
        rows = count
        while rows * groups % self.tile:
            rows += 1
        q = F.pad(q, (0, 0, 0, 0, 0, 0, 0, rows - count))
        end = whole_tiles(chunk.start + count)
        keys, values = state.keys[chunk.slot, :, :end], state.values[chunk.slot, :, :end]
        scores = torch.bmm(_by_head(q), keys.transpose(1, 2))
        unseen = plan.hidden_from(chunk.row, count, rows, 0, end)
        scores.view(heads, rows, groups, end).masked_fill_(unseen[:, None], -torch.inf)
        weights = scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
        mixed = _accumulate(None, weights, values) / _last(_tile_sums(weights))
        return mixed.view(heads, rows, groups, head_dim).transpose(0, 1)[:count]

    def _single(self, q: Tensor, state: KVSlots, plan: Plan, run: Run) -> Tensor:
        count, heads, groups, head_dim = q.shape
        padded = -(-groups // self.tile) * self.tile
        q = F.pad(q, (0, 0, 0, padded - groups))
        end = whole_tiles(plan.longest(run))
        own = slice(run.slot, run.slot + count)
        keys = state.keys[own].flatten(0, 1)[:, run.shared : end]
        values = state.values[own].flatten(0, 1)[:, run.shared : end]
        scores = torch.bmm(q.flatten(0, 1), keys.transpose(1, 2))
        unseen = plan.hidden_from(run.row, count, count, run.shared, end)
        scores.view(count, heads * padded, -1).masked_fill_(unseen[:, None], -torch.inf)
        largest = scores.amax(dim=-1, keepdim=True)
        if run.shared == 0:
            weights = scores.sub_(largest).exp_()
            mixed = _accumulate(None, weights, values) / _last(_tile_sums(weights))
            return mixed.view(count, heads, padded, head_dim)[:, :, :groups]
        common = torch.bmm(_by_head(q), state.keys[run.slot, :, : run.shared].transpose(1, 2))
        shape = (count, heads, padded)
        largest = torch.maximum(largest, _by_row(common.amax(dim=-1, keepdim=True), shape))
        weights = scores.sub_(largest).exp_()
        shared = common.sub_(_by_head(largest.view(*shape, 1))).exp_()
        before = _accumulate(None, shared, state.values[run.slot, :, : run.shared])
        total = _last(torch.cat((_by_row(_tile_sums(shared), shape), _tile_sums(weights)), dim=-1))
        mixed = _accumulate(_by_row(before, shape), weights, values) / total
        return mixed.view(count, heads, padded, head_dim)[:, :, :groups]


def _by_head(x: Tensor) -> Tensor:
    """[rows, heads, groups, n] -> [heads, rows * groups, n]."""
    return x.transpose(0, 1).flatten(1, 2)


def _by_row(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[heads, rows * groups, n] -> [rows * heads, groups, n]."""
    rows, heads, groups = shape
    return x.view(heads, rows, groups, -1).transpose(0, 1).flatten(0, 1)


def _tile_sums(weights: Tensor) -> Tensor:
    """[B, rows, tiles * TILE] -> [B, rows, tiles]."""
    sums: Tensor = weights.unflatten(-1, (-1, TILE)).sum(dim=-1)
    return sums


def _last(sums: Tensor) -> Tensor:
    """The sum over tiles, first to last: [B, rows, tiles] -> [B, rows, 1]. `cumsum` cannot reorder it, `sum` may."""
    return sums.cumsum(dim=-1)[..., -1:]


def _accumulate(total: Tensor | None, weights: Tensor, values: Tensor) -> Tensor:
    """total + weights @ values, tile after tile: [B, rows, n], [B, n, head_dim] -> [B, rows, head_dim]."""
    for start in range(0, weights.shape[-1], TILE):
        w, v = weights[..., start : start + TILE], values[:, start : start + TILE]
        total = torch.bmm(w, v) if total is None else torch.baddbmm(total, w, v)
    assert total is not None
    return total
