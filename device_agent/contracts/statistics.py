"""The statistics of measurements: pure functions over numbers, without a dependency.

Sources: Abramowitz & Stegun 1964 (26.7, Student's t), Efron & Tibshirani 1993 (chapter 13, percentile bootstrap),
Hodges & Lehmann 1963 (the estimate of a shift), Hampel 1974 (MAD), Hyndman & Fan 1996 (type 7, quantiles).
"""

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from statistics import fmean, median, stdev

_RESAMPLES = 2000


def quantile(samples: Sequence[float], share: float) -> float:
    """The `share` quantile, linear between order statistics (type 7)."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def mad(samples: Sequence[float]) -> float:
    """The median absolute deviation from the median, not scaled to a normal's standard deviation."""
    centre = median(samples)
    return median(abs(sample - centre) for sample in samples)


def spread(samples: Sequence[float]) -> float:
    """The coefficient of variation: sample standard deviation over mean; 0 for fewer than two samples."""
    return stdev(samples) / fmean(samples) if len(samples) > 1 and fmean(samples) > 0 else 0.0


def drift(samples: Sequence[float]) -> float:
    """Median of the last third over median of the first third, less 1; 0 for fewer than three samples."""
    third = len(samples) // 3
    if third == 0:
        return 0.0
    first = median(samples[:third])
    return median(samples[-third:]) / first - 1.0 if first > 0 else 0.0


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t with `freedom` (whole) degrees of freedom, A&S 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    squared = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = 1.0, 1.0 if freedom > 1 else 0.0
    for j in range(2 + odd, freedom - 1, 2):
        term *= squared * (j - 1) / j
        total += term
    within = math.sin(angle) * total
    if odd:
        within = 2 / math.pi * (angle + within * math.cos(angle))
    return (1 + within) / 2


@cache
def t_quantile(share: float, freedom: int) -> float:
    """The t with `t_cdf(t, freedom) = share`, for a share of at least a half."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < share:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < share else (low, middle)
    return high


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """mean +- t s / sqrt(n); with one value the value itself, for nothing is known of its spread."""
    if len(values) < 2:
        return values[0], values[0]
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


@cache
def _middles(count: int) -> tuple[tuple[int, int, int], ...]:
    """The ranks of the two middle values (the same twice, for an odd count) in seeded resamples, and in how many."""
    draw = random.Random(0)
    resamples = (sorted(draw.choices(range(count), k=count)) for _ in range(_RESAMPLES))
    found = Counter((ranks[(count - 1) // 2], ranks[count // 2]) for ranks in resamples)
    return tuple((low, high, times) for (low, high), times in found.items())


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap of the median. Too narrow for few values."""
    ordered = sorted(values)
    medians = sorted(((ordered[low] + ordered[high]) / 2, times) for low, high, times in _middles(len(ordered)))
    reached = list(accumulate(times for _, times in medians))
    low, high = (bisect_right(reached, rank) for rank in (int(0.025 * _RESAMPLES), int(0.975 * _RESAMPLES) - 1))
    return medians[low][0], medians[high][0]


def hodges_lehmann(differences: Sequence[float]) -> float:
    """The median of the means of all pairs, each with itself too: the shift of paired samples."""
    pairs = [(a + b) / 2 for i, a in enumerate(differences) for b in differences[i:]]
    return median(pairs)
