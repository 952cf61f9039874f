"""Values and instructions of an ExecuTorch method: their numbers, their lifetimes, and which of them are one memory."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from executorch.exir import schema
from executorch.exir.tensor import get_scalar_type

from search.errors import NotLinkable
from search.export.link_memory import Cluster, Lifetime, aligned

_LISTS = (schema.IntList, schema.TensorList, schema.OptionalTensorList)  # whose items are numbers of values
_NONE = -1  # an absent tensor of an OptionalTensorList


def nbytes(tensor: Any) -> int:
    """The bytes of a tensor at its largest."""
    size: int = math.prod(tensor.sizes) * get_scalar_type(tensor.scalar_type).itemsize
    return size


def renumbered(value: Any, number: Mapping[int, int], constants: Sequence[int]) -> Any:
    """A copy whose references to values and constants are those of the linked method."""
    if isinstance(value, _LISTS):
        return type(value)(items=[item if item == _NONE else number[item] for item in value.items])
    if not isinstance(value, schema.Tensor):
        return value
    if value.extra_tensor_info is not None:
        raise NotLinkable("a tensor's data lie outside the file")
    tensor = copy.copy(value)
    tensor.data_buffer_idx = constants[tensor.data_buffer_idx] if tensor.data_buffer_idx else 0
    return tensor


def renumbered_instruction(instruction: Any, number: Mapping[int, int], operators: Sequence[int], delegate: int) -> Any:
    """A copy over the linked method's values and operators; delegates count from `delegate`."""
    call = instruction.instr_args
    if isinstance(call, schema.KernelCall):
        return schema.Instruction(schema.KernelCall(operators[call.op_index], [number[i] for i in call.args]))
    arguments = [number[i] for i in call.args]
    return schema.Instruction(schema.DelegateCall(delegate + call.delegate_index, arguments))


def check_handover(name: str, given: Any, taken: Any) -> None:
    """Raises NotLinkable unless what one part gives is what the next one takes."""
    for what in ("scalar_type", "sizes", "dim_order", "shape_dynamism"):
        if getattr(given, what) != getattr(taken, what):
            raise NotLinkable(f"{name} takes {what} {getattr(taken, what)}, but is given {getattr(given, what)}")
    if given.allocation_info is None:
        raise NotLinkable(f"{name} is given what has no memory of its own")


def lifetimes(values: Sequence[Any], instructions: Sequence[Any], outputs: Sequence[int]) -> dict[int, Lifetime]:
    """From the first to the last instruction that names a value; an output lives to the end."""
    found: dict[int, Lifetime] = {}
    for moment, instruction in enumerate(instructions):
        for value in _named(values, instruction.instr_args.args):
            found[value] = (found.get(value, (moment, moment))[0], moment)
    end = len(instructions)
    return found | {value: (found.get(value, (end, end))[0], end) for value in outputs}


def clusters(name: str, plan: Any) -> list[Cluster]:
    """The planned tensors of a method; together where they share memory while both live, as a view and its base do.

    Two tensors that are not one memory never overlap in both memory and lifetime: that is what a plan is.
    """
    lives = lifetimes(plan.values, plan.chains[0].instructions, plan.outputs)
    spans = {i: _span(name, value.val) for i, value in enumerate(plan.values) if _planned(value.val)}
    groups: list[set[int]] = []
    for one in spans:
        joined = {one}
        for other in [g for g in groups if any(_are_one(spans, lives, one, i) for i in g)]:
            joined |= other
            groups.remove(other)
        groups.append(joined)
    return [_cluster(spans, group) for group in groups]


def _named(values: Sequence[Any], arguments: Sequence[int]) -> Iterator[int]:
    for argument in arguments:
        yield argument
        if isinstance(values[argument].val, _LISTS):
            yield from (item for item in values[argument].val.items if item != _NONE)


def _planned(value: Any) -> bool:
    return isinstance(value, schema.Tensor) and value.allocation_info is not None


def _span(name: str, tensor: Any) -> tuple[int, int]:
    if tensor.allocation_info.memory_id != 1:
        raise NotLinkable(f"{name} plans memory in arena {tensor.allocation_info.memory_id}")
    start = tensor.allocation_info.memory_offset
    return start, start + aligned(nbytes(tensor))


def _are_one(spans: Mapping[int, tuple[int, int]], lives: Mapping[int, Lifetime], one: int, other: int) -> bool:
    if one not in lives or other not in lives:
        return False
    (start, end), (first, last) = spans[one], lives[one]
    return start < spans[other][1] and spans[other][0] < end and first <= lives[other][1] and lives[other][0] <= last


def _cluster(spans: Mapping[int, tuple[int, int]], group: set[int]) -> Cluster:
    start = min(spans[i][0] for i in group)
    members = tuple((i, spans[i][0] - start) for i in sorted(group))
    return Cluster(members, max(spans[i][1] for i in group) - start)
