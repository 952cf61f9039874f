"""Bits per byte by position: whether what lies far back helps to predict text, or only confuses."""

import math
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from trainer.evaluate.haystack import Text
from trainer.evaluate.reading import losses
from trainer.model import HybridLM

_FIRST = 64


class Bucket(BaseModel):
    """Positions start to end of the windows, and the text's bits per byte there."""

    model_config = ConfigDict(frozen=True)

    start: int
    end: int
    bits_per_byte: float


def bits_by_position(
    model: HybridLM, text: Text, *, length: int, windows: int, batch: int = 1
) -> tuple[float, tuple[Bucket, ...]]:
    """(over all positions, in buckets that double in size) of `windows` windows.

    A window is read as one document even where documents end in it, so that every position has all before it to see.
    """
    given = text.windows(windows, length + 1)
    nats, read = [0.0] * length, [0] * length
    for part in given.split(batch):
        found, _ = losses(model, part[:, :-1], part[:, 1:])
        for place, value in enumerate(found.double().sum(0).tolist()):
            nats[place] += value
        for place, size in enumerate(text.token_bytes[part[:, 1:]].sum(0).tolist()):
            read[place] += size
    edges = _edges(length)
    buckets = tuple(
        Bucket(start=start, end=end, bits_per_byte=_bits(sum(nats[start:end]), sum(read[start:end])))
        for start, end in pairwise(edges)
    )
    return _bits(sum(nats), sum(read)), buckets


def _edges(length: int) -> list[int]:
    """0, 64, 128, 256, ... to the length."""
    edges, edge = [0], _FIRST
    while edge < length:
        edges.append(edge)
        edge *= 2
    return [*edges, length]


def _bits(nats: float, read: int) -> float:
    return nats / math.log(2) / max(1, read)
