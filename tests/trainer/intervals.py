"""Statistics that all benches share: means with 95 % intervals (Student's t), and the machine they were taken on."""

import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence

import torch

T95 = (math.inf, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # by degrees of freedom


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half a 95 % interval); of one value the half is infinite."""
    if len(values) < 2:
        return values[0], math.inf
    quantile = T95[min(len(values) - 1, len(T95) - 1)]
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


def effect(pairs: Iterable[tuple[float, float]]) -> dict[str, float | bool]:
    """Of (with it, without it), a pair a seed: mean difference, half its interval, whether that leaves zero out."""
    mean, half = interval([one - other for one, other in pairs])
    return {"mean": mean, "half": half, "there": abs(mean) > half}


def machine() -> str:
    """What the figures were taken on."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}, torch {torch.__version__}"
    )
