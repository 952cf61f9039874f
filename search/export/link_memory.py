"""Memory of a linked method: what lives at the same time lies apart, everything else shares.

Greedy by size, first fit (arXiv 2001.03288, section 4.2): the largest first, each at the lowest offset that is free
over its whole lifetime. ExecuTorch's own planner works by the same rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from executorch.exir import schema

_ALIGNMENT = 16  # of every tensor, as ExecuTorch aligns them

Lifetime = tuple[int, int]  # the first and the last instruction that name it, both included


@dataclass(frozen=True)
class Cluster:
    """Values that lie over each other because they are one memory (a view and its base): they move together."""

    members: tuple[tuple[int, int], ...]  # (value, offset within the cluster)
    size: int

    def renumbered(self, number: Mapping[int, int]) -> "Cluster":
        """The same over other numbers of values."""
        return Cluster(tuple((number[value], offset) for value, offset in self.members), self.size)


class _Placed(NamedTuple):
    lifetime: Lifetime
    start: int
    end: int


def plan_memory(values: Sequence[Any], clusters: Sequence[Cluster], lifetimes: Mapping[int, Lifetime]) -> int:
    """Give every member of every cluster its place in the one arena; the arena's bytes."""
    placed: list[_Placed] = []
    for cluster in sorted(clusters, key=lambda c: (-c.size, c.members)):
        lives = [lifetimes[value] for value, _ in cluster.members if value in lifetimes]
        lifetime = (min(first for first, _ in lives), max(last for _, last in lives)) if lives else (0, 0)
        start = _lowest_free(cluster.size, [p for p in placed if _meet(p.lifetime, lifetime)])
        placed.append(_Placed(lifetime, start, start + cluster.size))
        for value, offset in cluster.members:
            values[value].val.allocation_info = _allocation(start + offset)
    return max((p.end for p in placed), default=0)


def aligned(size: int) -> int:
    """The bytes that a tensor of `size` bytes takes."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _lowest_free(size: int, others: Sequence[_Placed]) -> int:
    start = 0
    for other in sorted(others, key=lambda p: p.start):
        if start + size <= other.start:
            break
        start = max(start, other.end)
    return start


def _meet(one: Lifetime, other: Lifetime) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _allocation(offset: int) -> Any:
    return schema.AllocationDetails(memory_id=1, memory_offset_low=offset & 0xFFFFFFFF, memory_offset_high=offset >> 32)
