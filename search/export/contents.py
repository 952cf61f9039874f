"""What is in a .pte file, byte for byte: read from its own tables, without its weights.

A file is a flatbuffer (the program), then segments. The first segment holds constants that operators outside the
delegates read (the embedding, rope tables, norms), the next ones the delegates' graphs, and the others, named by
their content, the delegates' weights. A 4-bit weight is followed by its scales.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

from executorch.exir._serialize._program import _ExtendedHeader, _flatbuffer_to_program, _get_extended_header

from search.bytes import PARTS, Part, Row, head_dims, is_plain, stored, weights
from search.errors import NotAProgram
from trainer.architecture import Architecture
from trainer.precision import Scheme

_NUMBER_BYTES = {0: 1, 1: 1, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 15: 2}  # ExecuTorch's ScalarType
_SCALES = "scale_"
_NUMBER = 8  # bytes of a constant that is one number


@dataclass(frozen=True)
class Item:
    """A run of bytes. `quantised` says of a delegate's weight that scales follow it."""

    kind: Literal["program", "graph", "weight", "scales", "constant", "padding"]
    size: int
    quantised: bool = False


def contents(path: Path) -> list[Item]:
    """Every byte of the file, in order of kinds; their sizes add up to the file's.

    Raises:
        NotAProgram: it is no .pte, or it was cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _get_extended_header(file.read(_ExtendedHeader.NUM_HEAD_BYTES))
        if header is None or header.segment_base_offset + header.segment_data_size != size:
            raise NotAProgram(f"{path} is not a whole .pte file", advice="Export it again.")
        file.seek(0)
        program = _flatbuffer_to_program(file.read(header.program_size))
    items = [Item("program", header.program_size), Item("padding", header.segment_base_offset - header.program_size)]
    items += _segments(program)
    end = max(segment.offset + segment.size for segment in program.segments)
    between = end - sum(segment.size for segment in program.segments)
    return [*items, Item("padding", between), Item("padding", header.segment_data_size - end)]


def _segments(program: Any) -> Iterator[Item]:
    taken = {program.constant_segment.segment_index}
    yield from _constants(program)
    for plan in program.execution_plan:
        for index in {delegate.processed.index for delegate in plan.delegates} - taken:
            taken.add(index)
            yield Item("graph", program.segments[index].size)
    names = [(entry.key, entry.segment_index) for entry in program.named_data]
    for place, (key, index) in enumerate(names):
        if index not in taken:
            taken.add(index)
            follows = place + 1 < len(names) and names[place + 1][0].startswith(_SCALES)
            kind: Literal["weight", "scales"] = "scales" if key.startswith(_SCALES) else "weight"
            yield Item(kind, program.segments[index].size, quantised=kind == "weight" and follows)
    for index in set(range(len(program.segments))) - taken:
        yield Item("program", program.segments[index].size)


def _constants(program: Any) -> Iterator[Item]:
    sizes = {}
    for plan in program.execution_plan:
        for value in plan.values:
            if type(value.val).__name__ == "Tensor" and value.val.data_buffer_idx and value.val.allocation_info is None:
                sizes[value.val.data_buffer_idx] = prod(value.val.sizes) * _NUMBER_BYTES[int(value.val.scalar_type)]
    offsets = program.constant_segment.offsets
    ends = [*offsets[1:], program.segments[program.constant_segment.segment_index].size]
    for index, (start, end) in enumerate(zip(offsets, ends, strict=True)):
        size = sizes.get(index, end - start)
        yield Item("constant", size)
        yield Item("padding", end - start - size)


def account(items: list[Item], architecture: Architecture, scheme: Scheme, context: int) -> tuple[list[Row], int]:
    """(rows by part, bytes that no part of this architecture explains).

    Weights and tables are known by their sizes, and those of equal size by their order, which is that of the chain.
    """
    values: Counter[Part] = Counter()
    scales: Counter[Part] = Counter()
    unexplained = 0
    expected = _expected(architecture, scheme, context)
    for item in items:
        found = _found(item, expected)
        if found is None:
            unexplained += item.size
        else:
            counted = scales if found.scales else values
            counted[found.part] += item.size
    return [Row(part, values[part], scales[part]) for part in PARTS if values[part] or scales[part]], unexplained


class _Found(NamedTuple):
    part: Part
    scales: bool = False


_Expected = dict[tuple[str, bool, int], deque[_Found]]


def _expected(architecture: Architecture, scheme: Scheme, context: int) -> _Expected:
    """What is to be found: by kind of item, whether scales follow, and size."""
    expected: _Expected = defaultdict(deque)
    for weight in weights(architecture):
        size, part = stored(weight, scheme), weight.part
        if weight.kind == "table" or (part == "norms" and weight.role):  # operators outside the delegates read these
            expected["constant", False, size.weights].append(_Found(part))
            expected["constant", False, size.scales].append(_Found(part, scales=True))
        else:
            plain = is_plain(weight, scheme)
            expected["weight", not plain, size.weights].append(_Found(part))
            if not plain:
                expected["scales", False, size.scales].append(_Found(part, scales=True))
    for width in head_dims(architecture):
        expected["constant", False, 2 * context * width] += 2 * [_Found("rope tables")]
        expected["constant", False, 2 * width].append(_Found("rope tables"))  # frequencies, where there are no tables
    return expected


def _found(item: Item, expected: _Expected) -> _Found | None:
    if item.kind in ("program", "graph"):
        return _Found("graphs")
    if item.kind == "padding" or not item.size:
        return _Found("padding")
    if waiting := expected.get((item.kind, item.quantised, item.size)):
        return waiting.popleft()
    return _Found("graphs") if item.kind == "constant" and item.size <= _NUMBER else None
