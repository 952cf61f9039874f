"""What requests remember: the slots of the active ones, and what the prefix cache keeps for later ones."""

from collections.abc import Sequence as Operators

import torch
from torch import Tensor

from trainer.generation.plan import whole_tiles
from trainer.generation.prefix import Entry, Node, PrefixCache
from trainer.generation.sequence import Sequence
from trainer.generation.state import SlotState


class Memory:
    """Slots are copies: what the cache evicts takes nothing from an active request, and forks share nothing written."""

    def __init__(self, states: Operators[SlotState], cache: PrefixCache, slots: int, context: int) -> None:
        self.cache = cache
        self.slots = 0
        """Slots for which there is room now; it grows with use, as their capacity does."""
        self._states = states
        self._capacity = 0
        self._most = slots, whole_tiles(context)

    def reserve(self, slot: int, positions: int) -> None:
        """Make room for so many positions in `slot`, twice what there was if more is needed."""
        slots, capacity = self.slots, self._capacity
        if slot < slots and positions <= capacity:
            return
        while slot >= slots:
            slots = min(self._most[0], max(1, 2 * slots))
        if positions > capacity:
            capacity = min(self._most[1], max(whole_tiles(positions), 2 * capacity))
        self.slots, self._capacity = slots, capacity
        for state in self._states:
            state.resize(slots, capacity)

    def begin(self, sequence: Sequence, node: Node | None) -> None:
        """Copy what the cache has of a prompt, up to `node`, into the sequence's slot."""
        cache, statistics = self.cache, self.cache.statistics
        self.reserve(sequence.slot, len(sequence.prompt))
        for state in self._states:
            state.clear(sequence.slot)
        for part in cache.path(node):
            for state, saved in zip(self._states, part.entry.saved, strict=True):
                state.load(sequence.slot, part.start, part.end, saved, part is node)
        statistics.requests += 1
        statistics.tokens += len(sequence.prompt)
        if node is None:
            return
        sequence.read = sequence.handle.completion.cached_tokens = node.end
        sequence.node = node if node.end - node.start == cache.block else node.parent
        cache.hold(sequence.node)
        statistics.hits += 1
        statistics.tokens_known += node.end
        if not sequence.prefilling:
            sequence.known = node.entry.hidden

    def marks(self, start: int, count: int) -> tuple[int, ...]:
        """After which of `count` positions from `start` on a block ends, whose recurrent states are to be kept."""
        if not self.cache.budget:
            return ()
        block = self.cache.block
        return tuple(range(-(start + 1) % block, count, block))

    def keep_block(self, sequence: Sequence, end: int, hidden: Tensor, mark: int) -> None:
        """Cache the block that ends at `end`, if what precedes it is there."""
        cache, start = self.cache, end - self.cache.block
        if start != (sequence.node.end if sequence.node else 0):
            return
        tokens = sequence.tokens(start, end)
        node = cache.find(sequence.node, tokens)
        if node is None:
            node = cache.insert(sequence.node, start, tokens, self._entry(sequence, start, end, hidden, mark))
        if node is not None:
            cache.hold(node)
            cache.release(sequence.node)
            sequence.node = node

    def keep_tail(self, sequence: Sequence) -> None:
        """Cache what was read after the last whole block."""
        cache, hidden = self.cache, sequence.last
        start, end = sequence.node.end if sequence.node else 0, sequence.read
        if hidden is None or not cache.budget or not 0 < end - start < cache.block:
            return
        tokens = sequence.tokens(start, end)
        if cache.find(sequence.node, tokens) is None:
            cache.insert(sequence.node, start, tokens, self._entry(sequence, start, end, hidden, None))

    def leave(self, sequence: Sequence) -> None:
        """Its part of the cache may be evicted from now on."""
        self.cache.release(sequence.node)
        sequence.node = None

    def _entry(self, sequence: Sequence, start: int, end: int, hidden: Tensor, mark: int | None) -> Entry:
        saved = [state.save(sequence.slot, start, end, mark) for state in self._states]
        return Entry(saved, torch.clone(hidden))
