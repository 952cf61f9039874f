"""The anatomy of a .pte: what ExecuTorch holds just before it writes the file, as plain values, and the file from them.

A Program's instructions and values, an XNNPACK graph for each delegate, what the memory planner was asked, and apart
from these the constant data (`blobs`). Whatever follows from the rest (memory offsets, sizes and names of data, the
order in which equal data is kept once) is left out, and is made again by ExecuTorch's own functions.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import IntEnum
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
    CONSTANT_TENSOR_ALIGNMENT,
    serialize_xnnpack_binary,
)
from executorch.exir import ExecutorchBackendConfig, ExecutorchProgramManager, schema
from executorch.exir._serialize._named_data_store import NamedDataStore, NamedDataStoreOutput
from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
from executorch.exir.emit import _emitter
from executorch.exir.memory_planning import MemoryPlanningAlgorithmSuite
from executorch.exir.tensor import TensorSpec, make_allocation_info

from search.errors import NoTemplate
from search.export.cuts import ONE_AT_A_TIME

Tree = Any  # of dictionaries, lists, strings and numbers: what JSON can say


class Anatomy(NamedTuple):
    """`tree` holds all but data; `blobs` are named by where they belong: `value 3`, or `graph 0 constant 2`."""

    tree: Tree
    blobs: dict[str, bytes]


class Recorder:
    """Listens to one lowering: its graphs, the planner's question, and which tensor came of which."""

    def __init__(self) -> None:
        self.graphs: dict[bytes, xnnpack_graph_schema.XNNGraph] = {}
        self.specs: list[TensorSpec] = []
        self.question: dict[str, int] = {}
        self.strange: list[str] = []  # what is not known here: raised later, since ExecuTorch wraps what it catches
        self._made: list[tuple[schema.Tensor, TensorSpec]] = []

    def plan(self, alignment: int, specs: Sequence[TensorSpec], graph: Any, signature: Any, padding: int) -> list[int]:
        """ExecuTorch's own planning, remembered."""
        if self.question or graph.input_mem_buffer_sizes:
            self.strange.append("memory is planned more than once")
        if any(spec.inplace_base is not None or spec.mem_id is not None for spec in specs):
            self.strange.append("memory is shared in a way that is not known")
        self.specs, self.question = list(specs), {"alignment": alignment, "padding": padding}
        sizes: list[int] = MemoryPlanningAlgorithmSuite()(alignment, specs, graph, signature, padding)
        return sizes

    def planned(self, tensor: schema.Tensor) -> int:
        """In the memory of which planned tensor this lies: a view shares the lifetime of what it shows."""
        lifetime = next(spec.lifetime for made, spec in self._made if made is tensor)
        for i, one in enumerate(self.specs):
            if one.lifetime is lifetime:
                return i
        raise NoTemplate("a tensor lies in memory that was not planned")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, what is lowered is remembered; one thread at a time."""
        with ONE_AT_A_TIME:
            serialise: Callable[..., bytes] = xnnpack_preprocess.serialize_xnnpack_binary
            make: Callable[..., schema.Tensor] = _emitter.make_tensor_value

            def listen(graph: xnnpack_graph_schema.XNNGraph, constants: bytearray) -> bytes:
                if constants:
                    self.strange.append("a graph holds constants of its own")
                data = serialise(graph, constants)
                self.graphs[data] = copy.deepcopy(graph)
                return data

            def watch(index: int, allocation: schema.AllocationDetails | None, spec: TensorSpec) -> schema.Tensor:
                tensor = make(index, allocation, spec)
                self._made.append((tensor, spec))
                return tensor

            try:
                xnnpack_preprocess.serialize_xnnpack_binary = listen
                _emitter.make_tensor_value = watch
                yield
            finally:
                xnnpack_preprocess.serialize_xnnpack_binary = serialise
                _emitter.make_tensor_value = make


def dissect(manager: ExecutorchProgramManager, recorder: Recorder) -> Anatomy:
    """What `manager` holds, which was lowered while `recorder` listened.

    Raises:
        NoTemplate: it holds something that is not known here.
    """
    program = copy.copy(manager.executorch_program)
    if len(program.execution_plan) != 1 or program.mutable_data_segments or manager._tensor_data:
        recorder.strange.append("a program of more than one method, or with data that changes or lies elsewhere")
    if recorder.strange:
        raise NoTemplate("; ".join(recorder.strange))
    blobs: dict[str, bytes] = {}
    values = list(_dissect_values(program, recorder, blobs))
    delegates = list(_dissect_delegates(program, recorder, manager._named_data, blobs))
    plan = copy.copy(program.execution_plan[0])
    plan.values, plan.delegates, plan.non_const_buffer_sizes = [], [], []
    program.execution_plan, program.constant_buffer, program.backend_delegate_data = [plan], [], []
    specs = [{"shape": list(s.shape), "dtype": str(s.dtype), "lifetime": list(s.lifetime)} for s in recorder.specs]
    planning = recorder.question | {"specs": specs}
    return Anatomy({"program": _plain(program), "values": values, "delegates": delegates, "planning": planning}, blobs)


def _dissect_values(program: schema.Program, recorder: Recorder, blobs: dict[str, bytes]) -> Iterator[Tree]:
    """Of a tensor, `allocation_info` tells the planned tensor, and its data goes to `blobs`."""
    for i, value in enumerate(program.execution_plan[0].values):
        tree = _plain(value)
        if isinstance(value.val, schema.Tensor):
            index = recorder.planned(value.val) if value.val.allocation_info else None
            tree["val"] |= {"data_buffer_idx": 0, "allocation_info": index}
            if value.val.data_buffer_idx:
                blobs[f"value {i}"] = program.constant_buffer[value.val.data_buffer_idx].storage
        yield tree


def _dissect_delegates(
    program: schema.Program, recorder: Recorder, named: NamedDataStoreOutput, blobs: dict[str, bytes]
) -> Iterator[Tree]:
    """Of a constant's key remains what stands before the hash of its data, which goes to `blobs`."""
    for g, delegate in enumerate(program.execution_plan[0].delegates):
        graph = recorder.graphs[program.backend_delegate_data[delegate.processed.index].data]
        tree = _plain(graph)
        for c, constant in enumerate(graph.constant_data[1:], start=1):  # the first stands for none
            blobs[f"graph {g} constant {c}"] = named.buffers[named.pte_data[constant.named_key].buffer_index]
            before, line, _ = constant.named_key.rpartition("_")
            tree["constant_data"][c] |= {"size": 0, "named_key": before + line}
        yield {"id": delegate.id, "specs": _plain(delegate.compile_specs), "graph": tree}


def assemble(tree: Tree, blobs: Mapping[str, bytes]) -> tuple[bytes, int]:
    """(the .pte, bytes of memory planned ahead of time)."""
    program: schema.Program = _alive(tree["program"], schema)
    (plan,) = program.execution_plan
    specs, plan.non_const_buffer_sizes = _plan(tree["planning"])
    plan.values, program.constant_buffer = _values(tree["values"], blobs, specs)
    store = NamedDataStore()
    place: dict[bytes, int] = {}
    for g, delegate in enumerate(tree["delegates"]):
        data = _delegate(delegate["graph"], f"graph {g} constant", blobs, store)
        index = place.setdefault(data, len(place))  # equal delegates are kept once
        reference = schema.BackendDelegateDataReference(schema.DataLocation.INLINE, index)
        plan.delegates.append(schema.BackendDelegate(delegate["id"], reference, _alive(delegate["specs"], schema)))
    program.backend_delegate_data = [schema.BackendDelegateInlineData(data) for data in place]
    named = store.get_named_data_store_output()
    return _file(PTEFile(program, named_data=named if named.pte_data else None)), sum(plan.non_const_buffer_sizes)


def _file(parts: PTEFile) -> bytes:
    config = ExecutorchBackendConfig()
    return bytes(
        serialize_pte_binary(
            parts,
            extract_delegate_segments=config.extract_delegate_segments,
            segment_alignment=config.segment_alignment,
            constant_tensor_alignment=config.constant_tensor_alignment,
            delegate_alignment=config.delegate_alignment,
        )
    )


def _plan(planning: Tree) -> tuple[list[TensorSpec], list[int]]:
    """Ask the planner again: (the tensors with their places, bytes of each arena)."""
    specs = []
    for one in planning["specs"]:
        spec = TensorSpec(getattr(torch, one["dtype"].removeprefix("torch.")), torch.Size(one["shape"]))
        spec.lifetime = one["lifetime"]
        specs.append(spec)
    graph = SimpleNamespace(input_mem_buffer_sizes=[])
    sizes = MemoryPlanningAlgorithmSuite()(planning["alignment"], specs, graph, None, planning["padding"])
    return specs, sizes


def _values(
    trees: list[Tree], blobs: Mapping[str, bytes], specs: list[TensorSpec]
) -> tuple[list[schema.EValue], list[schema.Buffer]]:
    """The values, and the constants that they point to; the first stands for none, and equal ones are kept once."""
    values, place, buffers = [], {sha256(b"").digest(): 0}, [schema.Buffer(b"")]
    for i, tree in enumerate(trees):
        value = _alive(tree, schema)
        if isinstance(value.val, schema.Tensor) and value.val.allocation_info is not None:
            spec = specs[cast(int, value.val.allocation_info)]
            value.val.allocation_info = make_allocation_info(spec.mem_id, spec.mem_offset)
        if (blob := blobs.get(f"value {i}")) is not None:
            digest = sha256(blob).digest()
            if digest not in place:
                place[digest] = len(buffers)
                buffers.append(schema.Buffer(blob))
            value.val.data_buffer_idx = place[digest]
        values.append(value)
    return values, buffers


def _delegate(tree: Tree, prefix: str, blobs: Mapping[str, bytes], store: NamedDataStore) -> bytes:
    graph: xnnpack_graph_schema.XNNGraph = _alive(tree, xnnpack_graph_schema)
    for c, constant in enumerate(graph.constant_data[1:], start=1):
        blob = blobs[f"{prefix} {c}"]
        constant.named_key += sha256(blob).hexdigest()
        constant.size = len(blob)
        store.add_named_data(constant.named_key, blob, CONSTANT_TENSOR_ALIGNMENT)
    data: bytes = serialize_xnnpack_binary(graph, bytearray())
    return data


def _plain(value: object) -> Tree:
    """Dataclasses as dictionaries that tell their class in `is`."""
    if is_dataclass(value):
        return {"is": type(value).__name__} | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, IntEnum):
        return {"is": type(value).__name__, "name": value.name}
    if isinstance(value, bool | int | float | str | None):
        return value
    raise NoTemplate(f"a {type(value).__name__} in a program")


def _alive(tree: Tree, home: ModuleType) -> Any:
    """The dataclasses again; `home` defines them."""
    if isinstance(tree, list):
        return [_alive(one, home) for one in tree]
    if not isinstance(tree, dict):
        return tree
    kind = getattr(home, tree["is"])
    if issubclass(kind, IntEnum):
        return kind[tree["name"]]
    return kind(**{name: _alive(one, home) for name, one in tree.items() if name != "is"})
