"""The prefix cache: blocks of tokens, named by a chain of hashes, each with what the operators keep of it.

A node is a whole block after its parent block, or the shorter tail where an earlier request ended; it holds the keys
and values of its own tokens, the convolutions' state after its last one, and the hidden state there, from which the
next logits follow. So a prompt that ends where an earlier one did costs no forward pass at all. Snapshots at block ends
are vLLM's `mamba_cache_mode=all`; those at ends of requests are what SGLang's MambaRadixCache keeps. A convolution's
state is small enough here that nothing cleverer pays.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from trainer.generation.state import Saved


@dataclass
class Entry:
    """What is kept of a node's tokens: per operator, and the hidden state [width] after the last."""

    saved: list[Saved]
    hidden: Tensor

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        return self.hidden.nbytes + sum(tensor.nbytes for saved in self.saved for tensor in saved)


@dataclass(eq=False)
class Node:
    """A block or tail. It is evicted neither while it has children nor while somebody holds it."""

    key: bytes
    parent: "Node | None"
    start: int
    end: int
    entry: Entry
    children: int = 0
    pins: int = 0
    tails: set[int] = field(default_factory=set)
    """Lengths of its children that are tails."""


@dataclass
class CacheStatistics:
    """Since the engine began. Tokens are of prompts."""

    requests: int = 0
    hits: int = 0
    """Requests of which at least one token was known."""
    tokens: int = 0
    tokens_known: int = 0
    evictions: int = 0
    refused: int = 0
    """Entries for which there was no room that could be made."""
    bytes: int = 0
    nodes: int = 0

    @property
    def saved(self) -> float:
        """Share of prompt tokens that were not computed."""
        return self.tokens_known / max(1, self.tokens)


class PrefixCache:
    """Nodes within a budget of bytes; what was used longest ago goes first. Not thread-safe."""

    def __init__(self, budget: int, block: int, identity: str = "") -> None:
        self.block = block
        self.budget = budget
        self.statistics = CacheStatistics()
        self._root = hashlib.sha256(identity.encode()).digest()
        self._nodes: OrderedDict[bytes, Node] = OrderedDict()  # the longest unused first; children before parents
        self._tails: set[int] = set()  # of the root

    def chain(self, tokens: Sequence[int]) -> list[bytes]:
        """The keys of the whole blocks of `tokens`, and of the tail if there is one."""
        keys, key = [], self._root
        for start in range(0, len(tokens), self.block):
            key = _key(key, tokens[start : start + self.block])
            keys.append(key)
        return keys

    def match(self, tokens: Sequence[int], chain: Sequence[bytes]) -> Node | None:
        """The node that ends deepest in `tokens`; it and those before it are now the latest used."""
        found: Node | None = None
        whole = len(tokens) // self.block
        for key in chain[:whole]:
            node = self._nodes.get(key)
            if node is None:
                break
            found = node
        deepest = self._longest_tail(found, tokens) or found
        self._touch(deepest)
        return deepest

    def find(self, parent: Node | None, tokens: Sequence[int]) -> Node | None:
        """The node of exactly `tokens` after `parent`."""
        node = self._nodes.get(_key(parent.key if parent else self._root, tokens))
        self._touch(node)
        return node

    def insert(self, parent: Node | None, start: int, tokens: Sequence[int], entry: Entry) -> Node | None:
        """Keep `entry` for `tokens`, which follow `parent`; None where there is no room. What is there stays."""
        key = _key(parent.key if parent else self._root, tokens)
        if key in self._nodes:
            self._touch(self._nodes[key])
            return self._nodes[key]
        self.hold(parent)
        room = self._make_room(entry.bytes)
        self.release(parent)
        if not room:
            self.statistics.refused += 1
            return None
        node = Node(key, parent, start, start + len(tokens), entry)
        self._nodes[key] = node
        if parent:
            parent.children += 1
        if len(tokens) < self.block:
            self._tails_of(parent).add(len(tokens))
        self.statistics.bytes += entry.bytes
        self.statistics.nodes += 1
        self._touch(node)
        return node

    @staticmethod
    def hold(node: Node | None) -> None:
        """Until it is released as often, neither `node` nor what is before it is evicted."""
        if node is not None:
            node.pins += 1

    @staticmethod
    def release(node: Node | None) -> None:
        """The end of a `hold`."""
        if node is not None:
            node.pins -= 1

    @staticmethod
    def path(node: Node | None) -> list[Node]:
        """From the first block to `node`."""
        nodes: list[Node] = []
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def _longest_tail(self, parent: Node | None, tokens: Sequence[int]) -> Node | None:
        start = parent.end if parent else 0
        key = parent.key if parent else self._root
        for length in sorted(self._tails_of(parent), reverse=True):
            if start + length <= len(tokens):
                node = self._nodes.get(_key(key, tokens[start : start + length]))
                if node is not None:
                    return node
        return None

    def _tails_of(self, parent: Node | None) -> set[int]:
        return parent.tails if parent else self._tails

    def _touch(self, node: Node | None) -> None:
        while node is not None:
            self._nodes.move_to_end(node.key)
            node = node.parent

    def _make_room(self, wanted: int) -> bool:
        if wanted > self.budget:
            return False
        while self.statistics.bytes + wanted > self.budget:
            victim = next((node for node in self._nodes.values() if not node.children and not node.pins), None)
            if victim is None:
                return False
            self._evict(victim)
        return True

    def _evict(self, node: Node) -> None:
        del self._nodes[node.key]
        if node.parent:
            node.parent.children -= 1
        self.statistics.bytes -= node.entry.bytes
        self.statistics.nodes -= 1
        self.statistics.evictions += 1


def _key(parent: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.sha256(parent + array("q", tokens).tobytes()).digest()
