"""What the active requests remember, one slot each, and how a piece of it is saved and restored.

A new operator says the same four things of its state: how it grows, what is kept of a run of positions, how that is put
back, and (in its own forward pass) its value at marked rows, since a recurrence cannot be rolled back.
"""

from typing import Protocol

import torch
from torch import Tensor

from trainer.architecture import Architecture, Attention

Saved = tuple[Tensor, ...]
"""What one operator keeps of one block of tokens."""


class SlotState(Protocol):
    """The state of one operator for every slot."""

    def resize(self, slots: int, capacity: int) -> None:
        """Make room for so many slots of so many positions; what is there stays."""

    def clear(self, slot: int) -> None:
        """Forget everything: the slot starts at position 0."""

    def save(self, slot: int, start: int, end: int, mark: int | None) -> Saved:
        """Copies of what positions [start, end) of `slot` added. `mark`: which marked row of the last pass is end - 1,
        None where the slot stands at `end` now."""

    def load(self, slot: int, start: int, end: int, saved: Saved, last: bool) -> None:
        """Put back what `save` gave; `last`: nothing follows, so the slot stands at `end`."""


class ConvSlots:
    """The last kernel-1 inputs of a convolution, [slots, kernel-1, width], oldest first; zeros before the first."""

    def __init__(self, kernel: int, width: int, device: torch.device) -> None:
        self.inputs = torch.zeros(0, kernel - 1, width, device=device)
        self.marked = self.inputs
        """[marks, kernel-1, width]: the state after each marked row of the last pass."""

    def resize(self, slots: int, capacity: int) -> None:  # noqa: ARG002  # the protocol's
        """See SlotState."""
        self.inputs = _enlarged(self.inputs, (slots, *self.inputs.shape[1:]))

    def clear(self, slot: int) -> None:
        """See SlotState."""
        self.inputs[slot] = 0

    def save(self, slot: int, start: int, end: int, mark: int | None) -> Saved:  # noqa: ARG002
        """See SlotState."""
        return ((self.inputs[slot] if mark is None else self.marked[mark]).clone(),)

    def load(self, slot: int, start: int, end: int, saved: Saved, last: bool) -> None:  # noqa: ARG002
        """See SlotState."""
        if last:
            self.inputs[slot] = saved[0]


class KVSlots:
    """Keys and values of an attention, each [slots, kv_heads, capacity, head_dim]."""

    def __init__(self, kv_heads: int, head_dim: int, device: torch.device) -> None:
        self.keys = torch.zeros(0, kv_heads, 0, head_dim, device=device)
        self.values = self.keys

    def resize(self, slots: int, capacity: int) -> None:
        """See SlotState."""
        shape = (slots, self.keys.shape[1], capacity, self.keys.shape[3])
        self.keys, self.values = _enlarged(self.keys, shape), _enlarged(self.values, shape)

    def clear(self, slot: int) -> None:
        """See SlotState: positions are overwritten before they are read."""

    def save(self, slot: int, start: int, end: int, mark: int | None) -> Saved:  # noqa: ARG002
        """See SlotState."""
        return self.keys[slot, :, start:end].clone(), self.values[slot, :, start:end].clone()

    def load(self, slot: int, start: int, end: int, saved: Saved, last: bool) -> None:  # noqa: ARG002
        """See SlotState."""
        self.keys[slot, :, start:end], self.values[slot, :, start:end] = saved


def slot_states(architecture: Architecture, device: torch.device) -> list[ConvSlots | KVSlots]:
    """An empty state for every block."""
    return [
        KVSlots(block.kv_heads, block.head_dim, device)
        if isinstance(block, Attention)
        else ConvSlots(block.kernel, architecture.width, device)
        for block in architecture.blocks
    ]


def _enlarged(old: Tensor, shape: tuple[int, ...]) -> Tensor:
    new = old.new_zeros(shape)
    new[tuple(slice(size) for size in old.shape)] = old
    return new
