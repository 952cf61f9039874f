"""From segments to the plan of a pass."""

from collections.abc import Iterator
from collections.abc import Sequence as Several

import torch

from trainer.generation.plan import Chunk, Layout, Plan, Run, Segment
from trainer.generation.rows import padded
from trainer.generation.sequence import Sequence


class Planner:
    """Makes plans, and keeps what did not change since the last one: most passes read one token of the same slots."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._layout: tuple[object, Layout] | None = None
        self._runs: tuple[object, list[Run]] | None = None

    def plan(self, running: list[Sequence], segments: list[Segment], slots: int, tile: int) -> Plan:
        """The first segments are single tokens of `running`, sorted by slot; the rest are parts of prompts."""
        tokens = [token for segment in segments for token in segment.tokens]
        positions = [s.start + i for s in segments for i in range(len(s.tokens))]
        rows = padded(len(tokens), tile)
        spare = [0] * (rows - len(tokens))
        chunks, row = [], len(running)
        for segment in segments[len(running) :]:
            chunks.append(Chunk(row, segment.slot, segment.start, len(segment.tokens)))
            row += len(segment.tokens)
        return Plan(
            count=len(tokens),
            tokens=torch.tensor(tokens + spare, device=self._device),
            positions=torch.tensor(positions + spare, device=self._device),
            slots=torch.tensor([s.slot for s in segments for _ in s.tokens], device=self._device),
            runs=self._grouped(running),
            chunks=chunks,
            layout=self._laid_out(segments, slots, rows),
        )

    def _laid_out(self, segments: list[Segment], slots: int, rows: int) -> Layout:
        key = (slots, rows, tuple((s.slot, len(s.tokens), s.marks) for s in segments))
        if self._layout is None or self._layout[0] != key:
            self._layout = key, Layout(segments, slots, rows, self._device)
        return self._layout[1]

    def _grouped(self, running: list[Sequence]) -> list[Run]:
        key = tuple(sequence.handle.id for sequence in running)
        if self._runs is None or self._runs[0] != key:
            self._runs = key, list(runs(running))
        return self._runs[1]


def runs(sequences: Several[Sequence]) -> Iterator[Run]:
    """Rows of neighbouring slots together, split where what they share changes; `sequences` are sorted by slot."""
    row = 0
    while row < len(sequences):
        first, shared, count = sequences[row], 0, 1
        while row + count < len(sequences) and sequences[row + count].slot == first.slot + count:
            common = first.shares(sequences[row + count])
            if count == 1:
                shared = common
            if common == 0 and (shared > 0 or _begins_a_group(sequences, row + count)):
                break
            shared = min(shared, common)
            count += 1
        yield Run(row, first.slot, count, shared)
        row += count


def _begins_a_group(sequences: Several[Sequence], row: int) -> bool:
    return row + 1 < len(sequences) and sequences[row].shares(sequences[row + 1]) > 0
