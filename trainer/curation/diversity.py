"""A subset that covers the rest: k-centre greedy on a light embedding."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.cleaners.words import Words

_BUCKETS, _WIDTH = 1 << 16, 64


def embedded(texts: Sequence[Words]) -> NDArray[np.float32]:
    """[N, 64], of length 1: TF-IDF of hashed words and pairs of words, projected by random signs.

    Random signs keep inner products but for an error of about 1/8 (Achlioptas 2003), and hashing but for collisions
    in 65,536 buckets (Weinberger et al. 2009). Wholly determined by the texts.
    """
    hashed = [np.unique(_buckets(text), return_counts=True) for text in texts]
    documents = np.zeros(_BUCKETS)
    for buckets, _ in hashed:
        documents[buckets] += 1
    rarity = np.log((1 + len(texts)) / (1 + documents)) + 1
    signs = np.random.Generator(np.random.Philox(key=64)).integers(0, 2, (_BUCKETS, _WIDTH), dtype=np.int8) * 2 - 1
    found = np.zeros((len(texts), _WIDTH), dtype=np.float32)
    for row, (buckets, counts) in enumerate(hashed):
        found[row] = ((1 + np.log(counts)) * rarity[buckets]) @ signs[buckets]
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return found


def centres(points: NDArray[np.float32], count: int, report: Callable[[int, int], None]) -> list[int]:
    """`count` rows, each the farthest from those before it, the first the nearest to the mean.

    No other choice has less than half the largest distance of a row to its nearest centre (Gonzalez 1985); as core
    sets for training: Sener and Savarese 2018, arXiv 1708.00489.
    """
    count = min(count, len(points))
    chosen = [int(np.argmax(points @ points.mean(axis=0)))]
    near = points @ points[chosen[0]]
    near[chosen[0]] = np.inf
    while len(chosen) < count:
        chosen.append(int(np.argmin(near)))
        near = np.maximum(near, points @ points[chosen[-1]])
        near[chosen[-1]] = np.inf
        report(len(chosen), count)
    return chosen


def _buckets(text: Words) -> NDArray[np.int64]:
    grams = np.concatenate([text.grams(1), text.grams(2)])
    return (grams % np.uint64(_BUCKETS)).astype(np.int64)
