"""What the study minimises, and by how much a candidate breaks each budget. Across phones the worst counts."""

import math
from collections.abc import Mapping, Sequence

from device_agent.contracts import Figure, Profile
from search.candidate import Candidate, Quality
from search.spec import Budgets, Objective, SearchSpec

BUDGETS = ("decode_ms", "ttft_ms", "peak_memory_mb")

# What a candidate without values counts as while no other has any: uniform guessing of bytes, 10 s a token, 100 GB.
_HOPELESS: dict[Objective, float] = {"quality": 8.0, "decode": 1e4, "memory": 1e5}


def bounds(budgets: Budgets) -> dict[str, float]:
    """The budgets that are set, by name."""
    plain = budgets.model_dump()
    return {name: plain[name] for name in BUDGETS if plain[name] is not None}


def figure(profile: Profile, budget: str) -> Figure:
    """The measured side of a budget, in the budget's unit."""
    if budget == "peak_memory_mb":
        megabytes = profile.peak_memory_bytes / 1e6
        return Figure(value=megabytes, low=megabytes, high=megabytes)
    return {"decode_ms": profile.decode_ms, "ttft_ms": profile.ttft_ms}[budget]


def worst(profiles: Mapping[str, Profile], budget: str) -> float:
    """The highest value over the phones, in the budget's unit."""
    return max(figure(profile, budget).value for profile in profiles.values())


def violations(spec: SearchSpec, profiles: Mapping[str, Profile]) -> dict[str, float]:
    """Relative excess over each set budget on the worst phone; at most 0 where it is kept."""
    return {name: worst(profiles, name) / bound - 1.0 for name, bound in bounds(spec.budgets).items()}


def known_values(spec: SearchSpec, profiles: Mapping[str, Profile], quality: Quality | None) -> dict[Objective, float]:
    """The objectives that are known: bits per byte, milliseconds, megabytes (10^6 bytes), all minimised."""
    known: dict[Objective, float] = {}
    if quality is not None:
        known["quality"] = quality.bits_per_byte
    if set(spec.phones) <= profiles.keys():
        known["decode"] = worst(profiles, "decode_ms")
        known["memory"] = worst(profiles, "peak_memory_mb")
    return {name: known[name] for name in spec.objectives if name in known}


def pessimistic_values(spec: SearchSpec, failed: Candidate, others: list[Candidate]) -> tuple[float, ...]:
    """What the study is told of a candidate that failed: what is known of it, and worse than the worst elsewhere.

    Finite values, because Optuna drops trials without, and its samplers then learn nothing (reference/search.md).
    `others` are the candidates with values of their own so far.
    """
    known = known_values(spec, failed.profiles, failed.quality)
    told = []
    for i, name in enumerate(spec.objectives):
        seen = [c.values[i] for c in others if c.values is not None]
        told.append(known.get(name, max(seen) * 1.1 if seen else _HOPELESS[name]))
    return tuple(told)


def errors(candidates: Sequence[Candidate], phone: str, name: str) -> list[float]:
    """log(predicted / measured) of every candidate that was predicted before it was measured, in their order."""
    rows = [c for c in candidates if phone in c.predicted and phone in c.profiles]
    both = [(getattr(c.predicted[phone], name), figure(c.profiles[phone], name).value) for c in rows]
    return [math.log(predicted / measured) for predicted, measured in both if min(predicted, measured) > 0]
