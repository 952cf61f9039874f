"""llama.cpp's 4- and 8-bit formats: 32 weights share one fp16 scale; each is an integer times that scale.

Our own weights are integers of the same ranges whose scales are bfloat16. A bfloat16 has 8 significant bits, so fp16's
11 hold it exactly wherever fp16's range does, and the integers are taken over as they are.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import QuantisationError

BLOCK = 32
_LARGEST = torch.finfo(torch.float16).max


class Packed(NamedTuple):
    """A matrix in blocks. `rounded` is how many blocks have a scale that fp16 holds only nearly."""

    blocks: NDArray[np.uint8]
    rounded: int


def q4_0(q: Tensor, scale: Tensor) -> Packed:
    """`blocks` is uint8 [out, in / 32 * 18]: per block the scale, then 16 bytes with elements i and i + 16 in each.

    Args:
        q: int8 [out, in], from -8 to 7.
        scale: float32 [out, in / group], the group a multiple of 32: its blocks repeat its scale.

    Raises:
        QuantisationError: groups that are no whole blocks, or a scale beyond fp16's range.
    """
    integers, half, rounded = _blocks(q, scale)
    nibbles = (integers + 8).to(torch.uint8)
    pairs = nibbles[..., : BLOCK // 2] | (nibbles[..., BLOCK // 2 :] << 4)
    return _joined(half, pairs, rounded)


def q8_0(q: Tensor, scale: Tensor) -> Packed:
    """`blocks` is uint8 [out, in / 32 * 34]: per block the scale, then 32 integers of 8 bits; arguments as `q4_0`'s."""
    integers, half, rounded = _blocks(q, scale)
    return _joined(half, integers.contiguous().view(torch.uint8), rounded)


def _blocks(q: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, int]:
    """(integers [out, blocks, 32], their fp16 scales [out, blocks], how many of these are not exact)."""
    group = q.shape[1] // scale.shape[1]
    if group % BLOCK:
        raise QuantisationError(
            f"llama.cpp has a scale for every {BLOCK} weights, and groups of {group} are no multiple of that",
            advice=f"quantise in groups of a multiple of {BLOCK}",
        )
    integers = q.unflatten(1, (-1, BLOCK))
    wanted = scale.repeat_interleave(group // BLOCK, dim=1)
    # A block of zeros has the smallest scale there is, which fp16 lacks; any scale says the same of it.
    wanted = torch.where((integers == 0).all(dim=-1), 0.0, wanted)
    if bool((wanted > _LARGEST).any()):
        raise QuantisationError("a scale is larger than fp16 can hold", advice="export it as f32")
    half = wanted.half()
    return integers, half, int((half.float() != wanted).sum())


def _joined(half: Tensor, payload: Tensor, rounded: int) -> Packed:
    blocks = torch.cat((half.unsqueeze(-1).view(torch.uint8), payload), dim=-1)
    return Packed(blocks.flatten(1).numpy(), rounded)
