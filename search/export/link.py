"""Linking: the lowered pieces of a chain become one file with one method `forward`, without lowering anything again.

What a whole-model export would give, short of one thing: XNNPACK's parts of two neighbouring pieces stay two delegates.
Linking is what ExecuTorch's emitter and serialiser would do for one module: values, operators, delegates and
instructions are numbered anew, equal constants and equal weights are kept once, and memory is planned over the whole
chain (`link_memory`), so that pieces, which run one after the other, use the same memory.

Facts of the format are those of the wheel's own schema (executorch/exir/schema.py); other versions are refused.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from executorch.exir import schema
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from torch.utils._pytree import tree_structure, treespec_dumps

from device_agent.contracts import StateSpec
from search.errors import NotLinkable, UnknownToolchain
from search.export import link_values as values
from search.export.link_memory import Cluster, plan_memory
from search.export.pieces import toolchain

_KNOWN = "1.4."  # whose schema and serialiser these are


class Part(NamedTuple):
    """One lowered piece: a .pte file with one method (x, position if `takes_position`, *states) -> (y, *returned)."""

    name: str
    data: bytes
    takes_position: bool
    states: tuple[StateSpec, ...]


def link(parts: Iterable[Part]) -> tuple[bytes, int]:
    """(the .pte of (x, position, *states) -> (y, *returned states), bytes of memory planned ahead of time).

    States are in the order of the parts. Parts are taken one at a time, so that a generator never holds them all.

    Raises:
        NotLinkable: a part is not such a file, or does not take what the one before it gives.
        UnknownToolchain: an ExecuTorch whose format is not known.
    """
    version = toolchain()["executorch"]
    if not version.startswith(_KNOWN):
        raise UnknownToolchain(
            f"linking was not made for executorch {version}", advice="Install the versions of constraints.txt."
        )
    linker = _Linker()
    for part in parts:
        linker.add(part)
    return linker.finish()


class _Linker:
    def __init__(self) -> None:
        self._values: list[Any] = []
        self._instructions: list[Any] = []
        self._operators: list[Any] = []
        self._delegates: list[Any] = []
        self._blobs: list[Any] = []
        self._constants = [schema.Buffer(storage=b"")]  # the first is that of tensors without constant data
        self._constant_index: dict[bytes, int] = {}
        self._named = NamedDataStore()
        self._clusters: list[Cluster] = []
        self._tokens: int | None = None
        self._position: int | None = None
        self._states: list[int] = []
        self._handed: int | None = None
        self._returned: list[int] = []

    def add(self, part: Part) -> None:
        """Put a part behind those that are there."""
        file = deserialize_pte_binary(part.data)
        plan = _only_plan(part, file)
        taken = self._take_inputs(part, plan)
        number = {old: taken.get(old, len(self._values) + new) for new, old in enumerate(_others(plan, taken))}
        number |= taken
        constants = [self._constant(b.storage) for b in _trimmed(plan, file.program.constant_buffer)]
        for old in _others(plan, taken):
            self._values.append(schema.EValue(values.renumbered(plan.values[old].val, number, constants)))
        clusters = values.clusters(part.name, plan)
        self._clusters += [c.renumbered(number) for c in clusters]
        self._append_instructions(plan, file.program, number)
        if file.named_data is not None:
            self._named.merge_named_data_store(file.named_data)
        handed, *returned = (number[i] for i in plan.outputs)
        self._handed = handed
        self._returned += returned

    def finish(self) -> tuple[bytes, int]:
        """The file, and its planned memory."""
        if self._handed is None or self._tokens is None:
            raise NotLinkable("there is nothing to link")
        if self._position is None:  # nobody takes it: the method does all the same, as every Program's
            self._position = self._append(_position_tensor())
        inputs, outputs = [self._tokens, self._position, *self._states], [self._handed, *self._returned]
        lifetimes = values.lifetimes(self._values, self._instructions, outputs)
        planned = plan_memory(self._values, self._clusters, lifetimes)
        plan = schema.ExecutionPlan(
            name="forward",
            container_meta_type=_container(len(inputs), len(outputs)),
            values=self._values,
            inputs=inputs,
            outputs=outputs,
            chains=[schema.Chain(inputs=[], outputs=[], instructions=self._instructions, stacktrace=None)],
            operators=self._operators,
            delegates=self._delegates,
            non_const_buffer_sizes=[0, planned],
        )
        program = schema.Program(
            version=0,
            execution_plan=[plan],
            constant_buffer=self._constants,
            backend_delegate_data=self._blobs,
            segments=[],
            constant_segment=schema.SubsegmentOffsets(segment_index=0, offsets=[]),
            mutable_data_segments=None,
            named_data=[],
        )
        named = self._named.get_named_data_store_output()
        data = serialize_pte_binary(
            PTEFile(program=program, named_data=named if named.buffers else None), extract_delegate_segments=True
        )
        return bytes(data), planned

    def _take_inputs(self, part: Part, plan: Any) -> dict[int, int]:
        """Where the part's inputs are among our values: what was handed over, the position, and new states."""
        expected = 1 + part.takes_position + len(part.states)
        returned = sum(state.update == "returned" for state in part.states)
        if len(plan.inputs) != expected or len(plan.outputs) != 1 + returned:
            raise NotLinkable(
                f"{part.name} has {len(plan.inputs)} inputs and {len(plan.outputs)} outputs, "
                f"not {expected} and {1 + returned}"
            )
        x, *rest = plan.inputs
        if self._handed is None:
            self._tokens = taken = self._append(plan.values[x].val)
        else:
            values.check_handover(part.name, self._values[self._handed].val, plan.values[x].val)
            taken = self._handed
        numbers = {x: taken}
        if part.takes_position:
            position = rest.pop(0)
            if self._position is None:
                self._position = self._append(plan.values[position].val)
            numbers[position] = self._position
        for state in rest:
            numbers[state] = self._append(plan.values[state].val)
            self._states.append(numbers[state])
        return numbers

    def _append_instructions(self, plan: Any, program: Any, number: dict[int, int]) -> None:
        operators = [self._operator(operator) for operator in plan.operators]
        first = len(self._delegates)
        for delegate in plan.delegates:
            self._blobs.append(program.backend_delegate_data[delegate.processed.index])
            reference = schema.BackendDelegateDataReference(schema.DataLocation.INLINE, len(self._blobs) - 1)
            self._delegates.append(schema.BackendDelegate(delegate.id, reference, delegate.compile_specs))
        for instruction in plan.chains[0].instructions:
            self._instructions.append(values.renumbered_instruction(instruction, number, operators, first))

    def _operator(self, operator: Any) -> int:
        if operator not in self._operators:
            self._operators.append(operator)
        return self._operators.index(operator)

    def _constant(self, storage: bytes) -> int:
        if not storage:
            return 0
        name = hashlib.sha256(storage).digest()
        if name not in self._constant_index:
            self._constant_index[name] = len(self._constants)
            self._constants.append(schema.Buffer(storage=storage))
        return self._constant_index[name]

    def _append(self, value: Any) -> int:
        self._values.append(schema.EValue(value))
        return len(self._values) - 1


def _only_plan(part: Part, file: Any) -> Any:
    """The part's one method. Raises NotLinkable where the file has what linking does not know."""
    program = file.program
    strange = {
        "a version of the format other than 0": program.version != 0,
        "more than one method": len(program.execution_plan) != 1,
        "mutable data": file.mutable_data is not None,
    }
    plan = program.execution_plan[0]
    calls = (schema.KernelCall, schema.DelegateCall)
    strange |= {
        "a method that is not forward": plan.name != "forward",
        "branches": len(plan.chains) != 1,
        "memory of other devices": bool(plan.non_const_buffer_device),
        "an instruction that is no call": any(not isinstance(i.instr_args, calls) for i in plan.chains[0].instructions),
        "more than one arena": len(plan.non_const_buffer_sizes) > 2,
    }
    for what, found in strange.items():
        if found:
            raise NotLinkable(f"{part.name} has {what}")
    return plan


def _others(plan: Any, taken: dict[int, int]) -> list[int]:
    return [i for i in range(len(plan.values)) if i not in taken]


def _trimmed(plan: Any, buffers: Sequence[Any]) -> list[Any]:
    """The constants without the padding that a file puts between them, so that equal ones are equal bytes."""
    sizes = dict.fromkeys(range(len(buffers)), 0)
    for value in plan.values:
        if isinstance(value.val, schema.Tensor) and value.val.data_buffer_idx:
            sizes[value.val.data_buffer_idx] = values.nbytes(value.val)
    return [schema.Buffer(storage=buffer.storage[: sizes[i]]) for i, buffer in enumerate(buffers)]


def _position_tensor() -> Any:
    return schema.Tensor(
        scalar_type=ScalarType.LONG,
        storage_offset=0,
        sizes=[1],
        dim_order=[0],
        requires_grad=False,
        layout=0,
        data_buffer_idx=0,
        allocation_info=None,
        shape_dynamism=schema.TensorShapeDynamism.STATIC,
    )


def _container(inputs: int, outputs: int) -> Any:
    """How Python would pack the arguments and the results, which the format wants to know."""
    return schema.ContainerMetadata(
        encoded_inp_str=treespec_dumps(tree_structure(((0,) * inputs, {}))),
        encoded_out_str=treespec_dumps(tree_structure((0,) * outputs)),
    )
