"""A window's top K as bytes: ids, logits of 8 bits, and the odds of the K tokens against all others.

The loss sees a top K through two things alone, the distribution within it and its mass. So a logit is kept as its
distance d from the largest, in the nearest of 256 levels c^2 / 2048: |d' - d| <= sqrt(d) / 45 + 1 / 8192, fine where
the probability is. Beyond 31.7 all distances are the same: even at a temperature of 4 that is 4e-4 of the likeliest
token's probability. The mass is kept as log-odds in float32, so rounded logits do not change it.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from trainer.distil import TopK

_LEVELS = 2048.0
_CODEC = pa.Codec("zstd", compression_level=12)


def encode(known: TopK) -> bytes:
    """Of one window, [T, K] and [T]."""
    ids = known.ids.cpu().numpy().astype("<u4")
    levels = (-known.logits * _LEVELS).sqrt().round().clamp(max=255).to(torch.uint8).cpu().numpy()
    # Levels grow along K: the steps between them are small numbers, many of them alike.
    steps = np.diff(levels, axis=1, prepend=np.uint8(0))
    odds = known.odds.float().cpu().numpy().astype("<f4")
    packed: bytes = _CODEC.compress(_planes(ids) + _planes(steps) + _planes(odds[:, None]), asbytes=True)
    return packed


def decode(packed: bytes | memoryview, positions: int, k: int) -> TopK:
    """What `encode` was given, its logits rounded.

    Raises:
        OSError, ValueError: these are not such bytes.
    """
    sizes = 4 * positions * k, positions * k, 4 * positions
    plain = np.frombuffer(_CODEC.decompress(packed, decompressed_size=sum(sizes)), dtype=np.uint8)
    ids, steps, odds = np.split(plain, np.cumsum(sizes)[:2])
    levels = np.cumsum(steps.reshape(k, positions).T, axis=1, dtype=np.int64)
    return TopK.with_odds(
        torch.from_numpy(_joined(ids, "<u4", positions, k).astype(np.int64)),
        torch.from_numpy((levels.astype(np.float32) ** 2) / -_LEVELS),
        torch.from_numpy(_joined(odds, "<f4", positions, 1)[:, 0].astype(np.float32)),
    )


def _planes(values: NDArray[Any]) -> bytes:
    """[T, K] as bytes, the lowest bytes of all values first, rank by rank: like lies beside like."""
    each = np.ascontiguousarray(values.T).view(np.uint8).reshape(-1, values.itemsize)
    return each.T.tobytes()


def _joined(planes: NDArray[np.uint8], dtype: str, positions: int, k: int) -> NDArray[Any]:
    """What `_planes` took apart, [T, K]."""
    each = np.ascontiguousarray(planes.reshape(np.dtype(dtype).itemsize, -1).T)
    return each.view(dtype).reshape(k, positions).T
