"""Lowering: from a module of `search.export.modules` to the bytes of a .pte file.

One method `forward` with a dynamic length serves prefill and decode: weights are packed once, any prompt length
runs, and one graph is lowered instead of two. At LFM2-350M's widths it was measured as fast as static methods.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

from device_agent.contracts import StateSpec
from search.export.cuts import cuts


def lower(
    module: nn.Module, example: Tensor, chunk: int, takes_position: bool, states: Sequence[StateSpec]
) -> tuple[bytes, int]:
    """(the .pte, bytes of memory planned ahead of time for activations); the arguments are those of `to_executorch`."""
    program = to_executorch(module, example, chunk, takes_position, states)
    planned = sum(program.executorch_program.execution_plan[0].non_const_buffer_sizes)
    return bytes(program.buffer), int(planned)


def to_executorch(
    module: nn.Module,
    example: Tensor,
    chunk: int,
    takes_position: bool,
    states: Sequence[StateSpec],
    plan: Callable[..., list[int]] | None = None,
) -> ExecutorchProgramManager:
    """The lowered module before it is taken for bytes.

    Args:
        module: takes (example [1, S, ...], position if `takes_position`, *states).
        example: an input of any length from 2 to `chunk`; of 1 where `chunk` is 1.
        chunk: the longest S.
        takes_position: whether int64 [1] follows the input.
        states: what is carried from call to call.
        plan: the algorithm that plans memory; ExecuTorch's own where it is left out.
    """
    inputs: list[Tensor] = [example]
    length: dict[int, object] = {1: Dim("S", min=1, max=chunk) if chunk > 1 else None}
    shapes: list[dict[int, object]] = [{k: v for k, v in length.items() if v is not None}]
    if takes_position:
        inputs.append(torch.zeros(1, dtype=torch.int64))
        shapes.append({})
    inputs += [torch.zeros(state.shape, dtype=getattr(torch, state.dtype)) for state in states]
    shapes += [{} for _ in states]
    with torch.no_grad(), _quiet(), cuts():
        dynamic = _shapes_of(module, shapes)
        exported = torch.export.export(module.eval(), tuple(inputs), dynamic_shapes=dynamic, strict=False)
        edge = to_edge_transform_and_lower(
            _strip_input_mutations(exported),
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        return edge.to_executorch(
            ExecutorchBackendConfig(
                do_quant_fusion_and_const_prop=True,  # else the 4-bit embedding has no kernel
                memory_planning_pass=MemoryPlanningPass(plan, alloc_graph_input=False),
            )
        )


def _shapes_of(module: nn.Module, shapes: list[dict[int, object]]) -> tuple[object, ...]:
    """torch.export wants variadic arguments as one tuple of their own."""
    from search.export.modules import Chain

    if isinstance(module, Chain):
        return (*shapes[:2], tuple(shapes[2:]))
    return tuple(shapes)


def _strip_input_mutations(exported: ExportedProgram) -> ExportedProgram:
    """Leave the bare in-place operator on the caller's cache.

    The functional form would copy the whole cache out and back at every step, and give it as an output.
    """
    program: ExportedProgram = exported.run_decompositions({})
    signature = program.graph_signature
    kept = [i for i, spec in enumerate(signature.output_specs) if spec.kind != OutputKind.USER_INPUT_MUTATION]
    output = program.graph.find_nodes(op="output")[0]
    output.args = (tuple(output.args[0][i] for i in kept),)
    signature.output_specs[:] = [signature.output_specs[i] for i in kept]
    program.graph_module.recompile()
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporting warns hundreds of times about its own internals; none of it is for our user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
