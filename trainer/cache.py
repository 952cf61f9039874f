"""What a model remembers of the tokens it has read: keys and values, and the convolutions' last inputs.

A cache never grows: it is made for a number of positions, and its bytes are known in advance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.architecture import Architecture, Attention
from trainer.errors import ContextOverflow


@dataclass
class KVState:
    """Keys and values of one attention, each [batch, kv_heads, capacity, head_dim], valid up to `Cache.length`."""

    keys: Tensor
    values: Tensor


@dataclass
class ConvState:
    """The last kernel-1 inputs of one convolution, [batch, kernel-1, width], oldest first; zeros before the first."""

    inputs: Tensor


class Cache:
    """State of every block for `batch` sequences of equal length, up to `capacity` positions."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        batch: int = 1,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = capacity
        self.length = 0
        self.states: list[KVState | ConvState] = []
        for block in architecture.blocks:
            if isinstance(block, Attention):
                shape = (batch, block.kv_heads, capacity, block.head_dim)
                keys = torch.zeros(shape, dtype=dtype, device=device)
                self.states.append(KVState(keys, torch.zeros_like(keys)))
            else:
                shape_conv = (batch, block.kernel - 1, architecture.width)
                self.states.append(ConvState(torch.zeros(shape_conv, dtype=dtype, device=device)))

    def reserve(self, positions: int) -> None:
        """Raise ContextOverflow unless `positions` more fit."""
        if self.length + positions > self.capacity:
            raise ContextOverflow(
                f"the cache holds {self.length} of {self.capacity} positions and cannot take {positions} more",
                advice="make the cache larger, or shorten the prompt or the answer",
            )
