"""Two cuts through the export's waste: passes over the whole graph that change nothing, and a history nobody reads.

Most of an export's time goes into retracing graphs, not into weights. With the cuts a convolution takes 10 CPU seconds
instead of 17 and an FFN 8 instead of 12 (measured on a busy machine, width 64). They are:

* Every node's `from_node` tells its whole ancestry, and is copied deeply at every retrace, so that it grows with each.
  All that a .pte takes from it is the first ancestor, by which debug handles are numbered; so that alone is kept. An
  ancestor is told by its name and its graph's address, which a later graph may have again: a number of the graph's own
  stands for the address, so that equal modules give equal bytes.
* For every delegate XNNPACK runs a list of passes, most of which look for one kind of operator, and retrace the graph
  even where it does not occur. Those are skipped.

What is lowered is byte for byte what ExecuTorch gives without the cuts, but for those handles where addresses met; a
test holds them to that. The cuts know the
insides of one ExecuTorch and one torch, and refuse others.
"""

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, cast
from weakref import WeakKeyDictionary

from executorch.backends.xnnpack._passes import XNNPACKPassManager
from torch.export import ExportedProgram
from torch.fx import Graph
from torch.fx.traceback import NodeSource

from search.errors import UnknownToolchain

_KNOWN = {"executorch": "1.4.", "torch": "2.13."}

# The operators without which a pass changes nothing, by the beginnings of their names; other passes always run.
SKIPPED_UNLESS = {
    "DimOrderOpsRevertPass": ("dim_order_ops.",),
    "ConvertToUpsampleBilinear2d": ("aten.index.", "aten.upsample_bilinear2d.", "aten._unsafe_index."),
    "ConvertToSDPAPass": ("aten._softmax.", "aten.softmax.", "aten.scaled_dot_product_attention."),
    "FuseBatchNormPass": ("aten.native_batch_norm.", "aten._native_batch_norm"),
    "DecomposeBatchNorm": ("aten.native_batch_norm.", "aten._native_batch_norm"),
    "FuseActivationPass": ("aten.relu.", "aten.hardtanh.", "aten.clamp."),
    "RemoveGetItemPass": ("aten.max_pool2d_with_indices.", "aten.max."),
    "InsertPadQDQPass": ("aten.constant_pad_nd.",),
    "Conv1dUnsqueezePass": ("aten.convolution.",),
    "PReLUReshapePass": ("aten._prelu_kernel.",),
    "RemoveRedundantCopyPass": ("aten._to_copy.",),
}

ONE_AT_A_TIME = RLock()  # torch and ExecuTorch themselves are changed, for the whole process


@contextmanager
def cuts() -> Iterator[None]:
    """Within it, torch and ExecuTorch are cut; one thread at a time.

    Raises:
        UnknownToolchain: versions whose insides are not known.
    """
    _refuse_others()
    with ONE_AT_A_TIME:
        initialise, transform = NodeSource.__init__, XNNPACKPassManager.transform
        _replace(NodeSource, "__init__", _without_history(initialise))
        _replace(NodeSource, "__deepcopy__", lambda self, memo: self)  # noqa: ARG005 - copy's signature
        _replace(XNNPACKPassManager, "transform", _with_fewer_passes(transform))
        try:
            yield
        finally:
            _replace(NodeSource, "__init__", initialise)
            del NodeSource.__deepcopy__  # type: ignore[attr-defined]
            _replace(XNNPACKPassManager, "transform", transform)


def _refuse_others() -> None:
    found = {name: importlib.metadata.version(name) for name in _KNOWN}
    if not all(found[name].startswith(version) for name, version in _KNOWN.items()):
        named = ", ".join(f"{name} {version}" for name, version in found.items())
        raise UnknownToolchain(
            f"the export's cuts were not made for {named}",
            advice="Install the versions of constraints.txt.",
        )


def _replace(owner: type, name: str, value: object) -> None:
    setattr(owner, name, value)


def _without_history(initialise: Callable[..., None]) -> Callable[..., None]:
    count = itertools.count()
    numbers: WeakKeyDictionary[Graph, int] = WeakKeyDictionary()

    def new(self: NodeSource, node: Any, *arguments: Any, **named: Any) -> None:
        initialise(self, None, *arguments, **named)
        if node:
            number = numbers.setdefault(node.graph, next(count))
            self.node_info = NodeSource.NodeInfo(node.name, str(node.target), number)
            self.from_node = _first_ancestor(node.meta.get("from_node", []))

    return new


def _first_ancestor(history: list[NodeSource]) -> list[NodeSource]:
    while history and history[-1].from_node:
        history = history[-1].from_node
    return history[-1:]


def _with_fewer_passes(transform: Callable[[Any], ExportedProgram]) -> Callable[[Any], ExportedProgram]:
    def new(self: Any) -> ExportedProgram:
        program: ExportedProgram = self.exported_program
        every = self.passes
        for one in every:
            if _may_act(one.__name__, program):
                self.passes, self._exported_program = [one], program
                program = transform(self)
        self.passes, self._exported_program = every, program
        return program

    return new


def _may_act(name: str, program: ExportedProgram) -> bool:
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    if name == "DecomposeConcatenate":  # of more than five, which XNNPACK has no operator for
        return any(_name(node.target).startswith("aten.cat.") and len(node.args[0]) > 5 for node in calls)
    wanted = SKIPPED_UNLESS.get(name)
    return wanted is None or any(_name(node.target).startswith(wanted) for node in calls)


def _name(target: object) -> str:
    return cast(str, getattr(target, "__name__", str(target)))
