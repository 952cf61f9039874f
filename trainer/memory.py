"""What a long training step or evaluation will take of memory, known before it starts; and what there is.

The counts are of float32 tensors that are alive together at the worst moment of a step that keeps no activations
between layers (`Recipe.checkpoint_activations`): while the widest layer is computed again for its gradients, or while a
chunk of the head is. They were derived from the code and corrected by what processes were seen to take at 8,192 to
131,072 positions: `make bench-context` prints both, a fifth apart at most.
"""

import ctypes
import os
from pathlib import Path

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.errors import NotEnoughMemory
from trainer.evaluate.reading import HEAD_CHUNK
from trainer.linear_cross_entropy import most_rows
from trainer.model import FFN_CHUNK

TOLERANCE = 0.2
"""Of the predictions, relative: how far from the truth they may be."""

_FIXED = 12 << 20  # bytes of threads' stacks, allocators and the like, seen where all else is small
_FLOAT = 4
_TRAINED = 16  # bytes a parameter: weight, gradient and AdamW's two moments
_TOKEN = 64  # bytes a position of token ids, targets, documents and masks
_MMAP_THRESHOLD, _RETURNED = -3, 2 << 20  # mallopt's number (malloc.h), bytes


def of_step(architecture: Architecture, *, batch: int, sequence: int) -> int:
    """Bytes at the peak of an optimiser step on hard labels that keeps no activations, under AdamW, in float32.

    The interpreter's own are not in it.
    """
    positions, width = batch * sequence, architecture.width
    kept = positions * (_TOKEN + _FLOAT * width * (architecture.depth + 1))
    layer = positions * _FLOAT * max(_layer(block, width) for block in architecture.blocks)
    layer += _FLOAT * min(FFN_CHUNK, positions) * 6 * architecture.ffn_width
    rows = min(most_rows(architecture.vocab_size), positions)
    head = _FLOAT * 3 * (positions * width + rows * architecture.vocab_size)
    matrix = _FLOAT * 2 * architecture.vocab_size * width  # of the head's gradient, sums being formed
    return _FIXED + architecture.parameters * _TRAINED + kept + max(layer, head + matrix)


def of_evaluation(architecture: Architecture, *, batch: int, sequence: int) -> int:
    """Bytes at the peak of `trainer.evaluate.reading.losses`, the model's own included."""
    positions, width = batch * sequence, architecture.width
    layer = positions * _FLOAT * max(_layer_without_gradients(block, width) for block in architecture.blocks)
    head = _FLOAT * min(HEAD_CHUNK, positions) * 2 * architecture.vocab_size
    held = architecture.parameters * _FLOAT + positions * _TOKEN
    return _FIXED + held + max(layer, positions * _FLOAT * 2 * width + head)


def require(needed: int, what: str) -> None:
    """Raise NotEnoughMemory unless this machine has `needed` bytes in all."""
    there = of_machine()
    if needed > there:
        raise NotEnoughMemory(
            f"{what} takes about {needed / 2**30:.1f} GiB, and this machine has {there / 2**30:.1f}",
            advice="choose a shorter sequence, fewer sequences a step, or a smaller model",
        )


def of_machine() -> int:
    """Bytes this process may have: the machine's, or less where its control group says so."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    given = [text for file in limits if file.is_file() and (text := file.read_text().strip()).isdecimal()]
    return min([whole, *map(int, given)])


def return_large_blocks() -> None:
    """Have glibc give tensors' memory back as soon as they are freed.

    By itself it learns to keep blocks of up to 32 MiB, whose gaps then double what a process takes. No other C library
    is touched.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _RETURNED)


def _layer(block: ShortConv | Attention, width: int) -> int:
    """Numbers a position, when a layer is computed again and differentiated."""
    if isinstance(block, ShortConv):
        return (11 + block.kernel) * width
    return 5 * width + 4 * _projected(block)


def _layer_without_gradients(block: ShortConv | Attention, width: int) -> int:
    if isinstance(block, ShortConv):
        return 10 * width
    return 3 * width + 2 * _projected(block)


def _projected(block: Attention) -> int:
    return (block.heads + 2 * block.kv_heads) * block.head_dim
