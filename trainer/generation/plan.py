"""Which rows go through the model together, and where each of them reads and writes."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILE = 128
"""Positions that attention sums at once. Tiles start at multiples of it in every sequence, whoever is computed with
whom, so the order in which a row's sums are taken depends on its position alone."""


@dataclass(frozen=True)
class Segment:
    """Consecutive new positions of one slot. `marks`: offsets after which recurrent states are kept."""

    slot: int
    start: int
    tokens: tuple[int, ...]
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    """Single rows of neighbouring slots, attended in one product: rows and slots each from `row` and `slot` on.

    The slots' first `shared` positions (whole tiles) are equal: queries of all members meet those of the first.
    """

    row: int
    slot: int
    count: int
    shared: int = 0


@dataclass(frozen=True)
class Chunk:
    """The rows of a segment of several tokens."""

    row: int
    slot: int
    start: int
    count: int


@dataclass
class Plan:
    """One pass. Rows beyond `count` are padding, and read and write nothing."""

    count: int
    tokens: Tensor
    positions: Tensor
    slots: Tensor
    runs: list[Run]
    chunks: list[Chunk]
    layout: "Layout"
    _writes: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _masks: dict[object, Tensor] = field(default_factory=dict)
    _longest: dict[Run, int] = field(default_factory=dict)

    def writes(self, kv_heads: int, capacity: int) -> Tensor:
        """Where keys and values go: rows of [slots * kv_heads * capacity, head_dim]; [count * kv_heads]."""
        key = (kv_heads, capacity)
        if key not in self._writes:
            heads = self.slots[:, None] * kv_heads + torch.arange(kv_heads, device=self.slots.device)
            self._writes[key] = (heads * capacity + self.positions[: self.count, None]).flatten()
        return self._writes[key]

    def longest(self, run: Run) -> int:
        """Positions of the longest of its sequences, the new one included."""
        if run not in self._longest:
            self._longest[run] = int(self.positions[run.row : run.row + run.count].max()) + 1
        return self._longest[run]

    def hidden_from(self, row: int, count: int, rows: int, start: int, end: int) -> Tensor:
        """True where one of `count` rows, padded to `rows`, may not see positions [start, end): [rows, end - start]."""
        key = (row, count, rows, start, end)
        if key not in self._masks:
            positions = self.positions[row : row + count]
            if rows > count:  # padding sees the first position, so that no row sees none
                positions = torch.cat((positions, positions.new_full((rows - count,), start)))
            self._masks[key] = torch.arange(start, end, device=positions.device) > positions[:, None]
        return self._masks[key]


class Layout:
    """Where rows find their predecessors: it does not change while the same slots take one token each."""

    def __init__(self, segments: list[Segment], slots: int, rows: int, device: torch.device) -> None:
        self._device = device
        lengths = [len(segment.tokens) for segment in segments]
        ends = np.cumsum(lengths)
        self.count = int(ends[-1])
        self._slot = np.repeat([segment.slot for segment in segments], lengths)
        self._first = np.repeat(ends - lengths, lengths)
        self._slots, self._rows = slots, rows
        marks = [ends[i] - lengths[i] + mark for i, segment in enumerate(segments) for mark in segment.marks]
        self._kept = np.array([*(ends - 1), *marks], dtype=np.int64)
        self.segment_slots = torch.tensor([segment.slot for segment in segments], device=device)
        self.last = len(segments)
        self._inputs: dict[int, tuple[Tensor, Tensor]] = {}

    def inputs(self, kernel: int) -> tuple[Tensor, Tensor]:
        """Rows of (all slots' states, new rows) laid end to end: what each new row convolves, oldest first, flat
        [rows * kernel]; and the states after each segment, then after each mark, flat [n * (kernel - 1)]."""
        if kernel not in self._inputs:
            past = kernel - 1
            row = np.arange(self.count)
            source = row[:, None] - past + np.arange(kernel)
            before = source - self._first[:, None]  # negative: older than the segment, in the slot's state
            index: NDArray[np.int64] = np.where(
                before >= 0, self._slots * past + source, self._slot[:, None] * past + past + before
            )
            kept = index[self._kept, 1:]
            index = np.concatenate((index, np.zeros((self._rows - self.count, kernel), dtype=np.int64)))
            self._inputs[kernel] = self._tensor(index), self._tensor(kept)
        return self._inputs[kernel]

    def _tensor(self, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(index).reshape(-1)).to(self._device)


def whole_tiles(positions: int) -> int:
    """The least whole tiles that hold so many positions, in positions."""
    return -(-positions // TILE) * TILE
