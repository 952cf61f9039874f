"""Which conversations share a window: best-fit decreasing in an order of its own for every epoch, or neighbours."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def windows(lengths: NDArray[np.int64], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The windows of an epoch, in the order they are read: each is numbers of conversations, none longer than `size`.

    The longest first, each into the fullest window that has room (Ding et al. 2024, arXiv 2404.10830, section 3.2).
    Among equally long ones chance decides, and the windows are shuffled, so neighbours change from epoch to epoch; how
    many windows there are does not, as that depends on lengths alone. A pure function of its arguments.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    shuffled = random.permutation(len(lengths))
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    made = _best_fit(order.tolist(), lengths.tolist(), size)
    return [made[number] for number in random.permutation(len(made))]


def neighbours(lengths: NDArray[np.int64], size: int) -> list[list[int]]:
    """The windows of conversations that follow one another: a new one begins where the next would not fit."""
    made: list[list[int]] = []
    left = 0
    for number, length in enumerate(lengths.tolist()):
        if length > left:
            made.append([])
            left = size
        made[-1].append(number)
        left -= length
    return made


def _best_fit(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    made: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(size + 1)]  # windows by what is left of them
    rooms: list[int] = []  # what is left of some window, sorted
    for number in order:
        length = lengths[number]
        at = bisect_left(rooms, length)
        if at == len(rooms):
            window, left = len(made), size
            made.append([])
        else:
            left = rooms[at]
            window = with_room[left].pop()
            if not with_room[left]:
                del rooms[at]
        made[window].append(number)
        left -= length
        if left and not with_room[left]:
            insort(rooms, left)
        with_room[left].append(window)
    return made
