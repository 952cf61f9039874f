"""The order in which training visits windows of text: every function here is pure, so a run resumes to the token.

Visit k (counted from 0 over all batches) is first given to one component of the mixture, then to one of its windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ROUND = 1 << 14  # visits that are dealt out together: shares are kept to 1/16384


@dataclass(frozen=True)
class Component:
    """A part of the mixture: windows of one stream, anywhere or within long documents only."""

    stream: int
    long: bool
    share: float

    @property
    def key(self) -> int:
        """Tells its random numbers from the others'."""
        return 2 * self.stream + self.long


def components(shares: Sequence[float], long_share: float, has_long: Sequence[bool]) -> tuple[Component, ...]:
    """Split streams' shares so that `long_share` of all windows lie within long documents.

    Every stream keeps its share as long as that is possible: lengthening the text must not change its mixture
    (Fu et al. 2024, "Data Engineering for Scaling Language Models to 128K Context", per-source upsampling). Only where
    the streams with long documents have less than `long_share` together do they grow, and the others shrink.
    """
    reach = sum(share for share, there in zip(shares, has_long, strict=True) if there)
    found: list[Component] = []
    for stream, (share, there) in enumerate(zip(shares, has_long, strict=True)):
        long = share * long_share / reach if there and long_share else 0.0
        rest = share - long
        if long_share > reach:
            rest = 0.0 if there else share * (1 - long_share) / (1 - reach)
        found += [Component(stream, False, rest), Component(stream, True, long)]
    return tuple(component for component in found if component.share > 1e-12)


def deal(parts: tuple[Component, ...], visit: int, seed: int) -> tuple[Component, int]:
    """Which component a visit belongs to, and how many visits that component had before."""
    if len(parts) == 1:
        return parts[0], visit
    turn, place = divmod(visit, _ROUND)
    owners, ranks, counts = _turn(parts, seed, turn)
    owner = int(owners[place])
    return parts[owner], turn * int(counts[owner]) + int(ranks[place])


def visits_of(parts: tuple[Component, ...], visits: int, seed: int) -> list[int]:
    """How many of the first `visits` visits each component got."""
    if len(parts) == 1:
        return [visits]
    turn, place = divmod(visits, _ROUND)
    owners, _, counts = _turn(parts, seed, turn)
    begun = np.bincount(owners[:place], minlength=len(parts))
    return [turn * int(count) + int(more) for count, more in zip(counts, begun, strict=True)]


def epoch(windows: int, seed: int, key: int, number: int) -> tuple[float, NDArray[np.int64]]:
    """An epoch over `windows` windows: where in [0, 1) its cuts begin, and its order.

    Two epochs of each component are kept, 8 bytes a window: a batch may lie across their border.
    """
    kept = _kept(windows, seed, key, number % 2)
    if not kept or kept[0][0] != number:
        generator = np.random.Generator(np.random.Philox(key=[seed, number + (key << 40)]))
        kept[:] = [(number, float(generator.random()), generator.permutation(windows))]
    return kept[0][1:]


@lru_cache(maxsize=256)
def _kept(windows: int, seed: int, key: int, parity: int) -> list[tuple[int, float, NDArray[np.int64]]]:  # noqa: ARG001
    """A place for one epoch."""
    return []


@lru_cache(maxsize=16)
def _turn(
    parts: tuple[Component, ...], seed: int, turn: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(each place's component, how many it had before in this turn, visits per component).

    A component's n visits lie one in each n-th of the turn, so any stretch of training has about the asked mixture.
    """
    counts = _apportioned([part.share for part in parts])
    generator = np.random.Generator(np.random.Philox(key=[seed, turn + (1 << 62)]))
    owners = np.repeat(np.arange(len(parts)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((ranks + generator.random(len(ranks))) / counts[owners], kind="stable")
    return owners[order], ranks[order], counts


def _apportioned(shares: Sequence[float]) -> NDArray[np.int64]:
    """Whole visits of one turn, by largest remainders; nobody who has a share gets none."""
    exact = np.asarray(shares) / sum(shares) * _ROUND
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    while (missing := _ROUND - int(counts.sum())) != 0:
        counts[np.argmax((exact - counts) * np.sign(missing))] += np.sign(missing)
    return counts
