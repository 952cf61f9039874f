"""Constant data of a .pte, traced back to the tensors of the module that was lowered.

ExecuTorch and XNNPACK keep a tensor as it is, in another order, or packed. Which of these became of which tensor is
found by comparing bytes: nothing here knows what a module is made of.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256

import torch
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
from executorch.exir.passes import _quant_patterns_and_replacements  # noqa: F401 - registers torch.ops.quant_fusion
from pydantic import BaseModel
from torch import Tensor, nn

from search.errors import NoTemplate

Tensors = Mapping[str, Tensor]

_LITERAL_BYTES = 256  # more is no scalar that a graph holds, but something whose origin we failed to see


class Source(BaseModel):
    """Where constant data comes from: a tensor and how it is packed, or bytes that never differ (in hex)."""

    tensor: str = ""
    packing: str = ""
    literal: str = ""

    def read(self, tensors: Tensors) -> bytes:
        """The data."""
        if not self.tensor:
            return bytes.fromhex(self.literal)
        return _bytes(_pack(self.packing, tensors[self.tensor]))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module, by name; those of a quantised tensor apart."""
    found: dict[str, Tensor] = {}
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        if hasattr(tensor, "__tensor_flatten__"):
            parts, _ = tensor.__tensor_flatten__()
            found |= {f"{name}.{part}": getattr(tensor, part) for part in parts}
        else:
            found[name] = tensor.detach()
    return found


def trace(blobs: Sequence[Mapping[str, bytes]], tensors: Sequence[Tensors]) -> dict[str, Source]:
    """The source of every blob, from several lowerings of different dimensions and weights.

    Raises:
        NoTemplate: data that no packing of any tensor gives each time.
    """
    made = [_everything(one) for one in tensors]
    return {name: _source(name, [one[name] for one in blobs], made) for name in blobs[0]}


def _source(name: str, seen: Sequence[bytes], made: Sequence[Mapping[bytes, list[tuple[str, str]]]]) -> Source:
    fitting = [table.get(sha256(data).digest(), []) for data, table in zip(seen, made, strict=True)]
    for tensor, packing in fitting[0]:
        if all((tensor, packing) in other for other in fitting[1:]):
            return Source(tensor=tensor, packing=packing)
    if len(set(seen)) == 1 and len(seen[0]) <= _LITERAL_BYTES:
        return Source(literal=seen[0].hex())
    raise NoTemplate(f"the data of {name} comes of no tensor of the module")


def _everything(tensors: Tensors) -> dict[bytes, list[tuple[str, str]]]:
    table = defaultdict(list)
    for name, tensor in tensors.items():
        for packing in _packings(tensor):
            table[sha256(_bytes(_pack(packing, tensor))).digest()].append((name, packing))
    return dict(table)


def _packings(tensor: Tensor) -> Iterator[str]:
    yield "plain"
    if tensor.dtype == torch.float32:
        yield "bfloat16"
    if (
        tensor.dtype == torch.int8
        and tensor.dim() == 2
        and tensor.shape[1] % 2 == 0
        and -8 <= tensor.min() <= tensor.max() <= 7
    ):
        yield from ("xnnpack-int4", "embedding-int4")
    if tensor.dim() > 2:
        yield from ("".join(map(str, order)) for order in itertools.permutations(range(tensor.dim())))


def _pack(packing: str, tensor: Tensor) -> Tensor:
    if packing.isdigit():
        return tensor.permute(*map(int, packing))
    return _PACK[packing](tensor)


_PACK: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda tensor: tensor,
    "bfloat16": lambda tensor: tensor.to(torch.bfloat16),
    "xnnpack-int4": NodeVisitor.convert_to_qc4w,
    "embedding-int4": lambda tensor: torch.ops.quant_fusion._pack_embedding_weight(tensor, 4),
}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
