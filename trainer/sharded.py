"""Tensors whose rows the ranks share (DTensor, as FSDP2 cuts them), and plain ones alike."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def held(tensor: Tensor) -> Tensor:
    """What this rank holds of it, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, gathered from the ranks; all call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def rows_of(every: Tensor, like: Tensor) -> Tensor:
    """The rows of `every` that this rank holds of `like`: FSDP2 cuts as torch.chunk does."""
    if not isinstance(like, DTensor):
        return every
    chunks, mine = every.chunk(like.device_mesh.size()), like.device_mesh.get_local_rank()
    return chunks[mine] if mine < len(chunks) else every[:0]
