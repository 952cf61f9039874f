"""Latency predicted block by block, from the times that measured candidates' blocks took on one phone.

A Program runs its blocks one after the other, so its latency is close to the sum of theirs (nn-Meter, MobiSys 2021,
builds on the same fact). A block that was measured counts with its median; another one with a line per kind through
what it reads (decode) or multiplies (prefill), non-negative and drawn towards the line through all kinds, since a kind
may have been seen in one size only. The sum is then scaled to what whole Programs took: clocks between blocks cost
something, and what lies between the blocks is in no block.

Nothing is kept: a predictor is made from the ledger, and where the ledger holds no times of blocks there is none.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from search.blocks import BlockWork, Kind, blocks_of
from search.candidate import BlockTimes, Candidate, Predicted
from search.spec import SearchSpec
from trainer.architecture import Architecture

_Vector = NDArray[np.float64]
_Key = tuple[object, ...]

_CHOICES = [list(choice) for n in (1, 2, 3) for choice in itertools.combinations(range(3), n)]
_DRAW = 0.05  # how much the line through all kinds counts, in observations of the kind's own


@dataclass(frozen=True)
class _Figure:
    """One of the two figures: where a block's work and times are, and the whole Program's."""

    work: Callable[[BlockWork], tuple[float, float]]
    times: Callable[[BlockTimes], Sequence[float]]


_DECODE = _Figure(lambda block: block.decode, lambda times: times.decode_ms)
_PREFILL = _Figure(lambda block: block.prefill, lambda times: times.prefill_ms)


class LatencyPredictor:
    """What an Architecture will take on one phone, in milliseconds."""

    def __init__(self, spec: SearchSpec, measured: Sequence[tuple[Candidate, BlockTimes]], phone: str) -> None:
        """`measured` is not empty; `of` says of which candidates it is."""
        self._spec = spec
        chains = [(blocks_of(candidate.architecture, spec), times) for candidate, times in measured]
        profiles = [candidate.profiles[phone] for candidate, _ in measured]
        self._decode = _Additive(_DECODE, chains, [profile.decode_ms.value for profile in profiles])
        self._prefill = _Additive(_PREFILL, chains, [profile.ttft_ms.value for profile in profiles])

    @classmethod
    def of(cls, spec: SearchSpec, candidates: Iterable[Candidate], phone: str) -> "LatencyPredictor | None":
        """From those whose blocks were timed on `phone`; None if there are none."""
        timed = [(c, c.blocks[phone]) for c in candidates if phone in c.blocks and phone in c.profiles]
        fitting = [(c, times) for c, times in timed if _is_whole(times, 2 * c.architecture.depth + 2)]
        return cls(spec, fitting, phone) if fitting else None

    def predict(self, architecture: Architecture) -> Predicted:
        """Both figures, and how much of the architecture had been measured."""
        blocks = blocks_of(architecture, self._spec)
        seen = sum(self._decode.knows(block) for block in blocks) / len(blocks)
        return Predicted(decode_ms=self._decode.total(blocks), ttft_ms=self._prefill.total(blocks), seen=seen)


class _Additive:
    """One figure as a sum over blocks."""

    def __init__(
        self, figure: _Figure, chains: Sequence[tuple[list[BlockWork], BlockTimes]], wholes: Sequence[float]
    ) -> None:
        times: defaultdict[_Key, list[float]] = defaultdict(list)
        self._rows: dict[_Key, _Vector] = {}
        for blocks, measured in chains:
            for block, milliseconds in zip(blocks, figure.times(measured), strict=True):
                key = _key(block)
                if key not in times:
                    self._rows[key] = _row(figure.work(block))
                times[key].append(milliseconds)
        self._work = figure.work
        self._seen = {key: median(found) for key, found in times.items()}
        self._lines: dict[Kind, _Vector] = {}
        sums = [sum(self._seen[_key(block)] for block in blocks) for blocks, _ in chains]
        self._scale = median(whole / total for whole, total in zip(wholes, sums, strict=True))

    def knows(self, block: BlockWork) -> bool:
        """Whether a block of these dimensions was measured."""
        return _key(block) in self._seen

    def total(self, blocks: Sequence[BlockWork]) -> float:
        """Milliseconds of the whole."""
        return self._scale * sum(self._block(block) for block in blocks)

    def _block(self, block: BlockWork) -> float:
        known = self._seen.get(_key(block))
        if known is not None:
            return known
        if block.kind not in self._lines:
            self._lines[block.kind] = self._line(block.kind)
        return float(_row(self._work(block)) @ self._lines[block.kind])

    def _line(self, kind: Kind) -> _Vector:
        """(per block, per million of work, per million of the other work), drawn towards that of all kinds."""
        every = _fit([*self._rows.values()], [*self._seen.values()], np.zeros(3), 1e-6)
        own = [key for key in self._rows if key[0] == kind]
        return _fit([self._rows[key] for key in own], [self._seen[key] for key in own], every, _DRAW) if own else every


def _is_whole(times: BlockTimes, stages: int) -> bool:
    """Of a composed Program, and by a clock that moved."""
    return all(len(side) == stages and sum(side) > 0 for side in (times.decode_ms, times.prefill_ms))


def _key(block: BlockWork) -> _Key:
    return (block.kind, *block.dimensions)


def _row(work: tuple[float, float]) -> _Vector:
    return np.array([1.0, work[0] / 1e6, work[1] / 1e6])


def _fit(work: Sequence[_Vector], times: Sequence[float], towards: _Vector, draw: float) -> _Vector:
    """Non-negative ridge regression towards a given line: the best over every choice of coefficients that are not 0."""
    rows, milliseconds = np.stack(work), np.array(times)
    size = np.where(rows.any(axis=0), rows.max(axis=0), 1.0)
    scaled = rows / size
    gram, target = scaled.T @ scaled + draw * np.eye(len(size)), scaled.T @ milliseconds + draw * towards * size
    best, least = np.zeros(len(size)), 0.0
    for choice in _CHOICES:
        line = np.linalg.solve(gram[np.ix_(choice, choice)], target[choice])
        missed = -float(target[choice] @ line)  # the objective at its minimum over this choice, up to a constant
        if missed < least and (line >= 0).all():
            best, least = np.zeros(len(size)), missed
            best[choice] = line
    return best / size
