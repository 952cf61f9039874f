"""From a SearchSpace to Architectures, by a handful of ordinal knobs.

A knob is an index into its list of choices. Several settings may give the same Architecture (the placement of no
attention at all); the smallest of them is the canonical form, so canonical parameters and Architectures are one to one.
"""

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

import optuna

from search.estimate import floor_bytes
from search.spec import Placement, SearchSpace, SearchSpec
from trainer.architecture import Architecture, Attention, ShortConv

KNOBS = ("width", "depth", "ffn", "share", "placement", "kv_heads", "kernel")
_FFN_STEP = 32

Params = dict[str, int]
Key = tuple[int, ...]


def choices(space: SearchSpace) -> dict[str, int]:
    """How many choices each knob has; its values are 0 to this less one."""
    return {
        "width": len(space.width),
        "depth": len(space.depth),
        "ffn": len(space.ffn_ratio),
        "share": len(_shares(space)),
        "placement": len(space.placement),
        "kv_heads": len(space.kv_heads),
        "kernel": len(space.kernel),
    }


def distributions(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """The knobs as Optuna's distributions: ordinals, so that neighbours teach about each other."""
    return {name: optuna.distributions.IntDistribution(0, n - 1) for name, n in choices(space).items()}


def propose(trial: optuna.Trial, spec: SearchSpec) -> tuple[Params, Architecture]:
    """The canonical parameters and the Architecture that a trial suggests."""
    raw = {name: trial.suggest_int(name, 0, n - 1) for name, n in choices(spec.space).items()}
    params = canonical(raw, spec.space)
    return params, architecture_of(params, spec)


def canonical(params: Mapping[str, int], space: SearchSpace) -> Params:
    """The smallest parameters with the same Architecture."""
    width = _first(space.width, params["width"])
    depth = _first(space.depth, params["depth"])
    patterns = attention_patterns(_shares(space), space.placement, space.depth[depth])
    place = _first(patterns, params["share"] * len(space.placement) + params["placement"])
    share, placement = divmod(place, len(space.placement))
    at = patterns[place]
    return {
        "width": width,
        "depth": depth,
        "ffn": _first(_ffn_widths(space, space.width[width]), params["ffn"]),
        "share": share,
        "placement": placement,
        "kv_heads": _first(_kv_heads(space, space.width[width]), params["kv_heads"]) if at else 0,
        "kernel": _first(space.kernel, params["kernel"]) if len(at) < space.depth[depth] else 0,
    }


def architecture_of(params: Mapping[str, int | float | str], spec: SearchSpec) -> Architecture:
    """The Architecture that parameters stand for: a pure function, so that a ledger's row says all."""
    space, knob = spec.space, {name: int(params[name]) for name in KNOBS}
    width, depth = space.width[knob["width"]], space.depth[knob["depth"]]
    patterns = attention_patterns(_shares(space), space.placement, depth)
    at = patterns[knob["share"] * len(space.placement) + knob["placement"]]
    attention = Attention(
        heads=width // space.head_dim,
        kv_heads=_kv_heads(space, width)[knob["kv_heads"]],
        head_dim=space.head_dim,
    )
    conv = ShortConv(kernel=space.kernel[knob["kernel"]])
    return Architecture(
        vocab_size=spec.vocab_size,
        width=width,
        ffn_width=_ffn_widths(space, width)[knob["ffn"]],
        blocks=tuple(attention if i in at else conv for i in range(depth)),
    )


def key(params: Mapping[str, int | float | str]) -> Key:
    """Canonical parameters as a hashable value."""
    return tuple(int(params[name]) for name in KNOBS)


def distinct(space: SearchSpace) -> int:
    """The number of distinct Architectures."""
    per_depth: list[tuple[int, int, int]] = []  # (without attention, mixed, attention only) patterns of each depth
    for depth in set(space.depth):
        patterns = set(attention_patterns(_shares(space), space.placement, depth))
        bare, full = sum(not at for at in patterns), sum(len(at) == depth for at in patterns)
        per_depth.append((bare, len(patterns) - bare - full, full))
    kernels, total = len(set(space.kernel)), 0
    for width in set(space.width):
        heads, ffn = len(set(_kv_heads(space, width))), len(set(_ffn_widths(space, width)))
        total += ffn * sum(bare * kernels + mixed * kernels * heads + full * heads for bare, mixed, full in per_depth)
    return total


def walk(space: SearchSpace, seed: int) -> Iterator[Params]:
    """Every canonical form once, in an order that `seed` shuffles, without holding them all."""
    sizes = choices(space)
    total = math.prod(sizes.values())
    draw = random.Random(seed)
    start, stride = draw.randrange(total), max(1, int(total * draw.uniform(0.3, 0.7)))
    while math.gcd(stride, total) != 1:
        stride += 1
    for step in range(total):
        rest, params = (start + step * stride) % total, {}
        for name, n in sizes.items():
            rest, params[name] = divmod(rest, n)
        if canonical(params, space) == params:
            yield params


def unseen(spec: SearchSpec, seen: Collection[Key], seed: int) -> Params | None:
    """An Architecture that is not in `seen` and may keep the memory budget, at random; None if none is left."""
    for params in walk(spec.space, seed):
        if key(params) not in seen and may_fit(params, spec):
            return params
    return None


def may_fit(params: Mapping[str, int], spec: SearchSpec) -> bool:
    """False if the memory budget is below what the Architecture cannot do without: a check that costs nothing."""
    bound = spec.budgets.peak_memory_mb
    return bound is None or floor_bytes(architecture_of(params, spec), spec) <= bound * 1e6


def cheapest_violation(spec: SearchSpec) -> str | None:
    """Names a budget that no Architecture of the space can meet, and says what to change; None if there is none.

    Only memory can be judged without a phone. Latency depends on the phone alone: a bound that is too low shows in
    the verdict, after measurements.
    """
    bound = spec.budgets.peak_memory_mb
    if bound is None:
        return None
    cheapest = min(_small_architectures(spec), key=lambda a: floor_bytes(a, spec))
    needed = floor_bytes(cheapest, spec) / 1e6
    if needed <= bound:
        return None
    return (
        f"No architecture of this space can keep peak_memory_mb = {bound:g}: the smallest (width {cheapest.width}, "
        f"depth {cheapest.depth}, FFN width {cheapest.ffn_width}, vocabulary {spec.vocab_size}) holds {needed:.2f} MB "
        f"in weights and state alone. Raise peak_memory_mb above {math.ceil(needed * 100) / 100:g}, or let the space "
        f"contain smaller models: a smaller width, depth or ffn_ratio, or a smaller vocab_size."
    )


@lru_cache(maxsize=4096)
def attention_patterns(
    shares: tuple[float, ...], placements: tuple[Placement, ...], depth: int
) -> tuple[tuple[int, ...], ...]:
    """The positions of attention blocks for every (share, placement), shares outermost."""
    return tuple(_positions(share, placement, depth) for share in shares for placement in placements)


def _positions(share: float, placement: Placement, depth: int) -> tuple[int, ...]:
    """round(share * depth) blocks spread evenly: over the whole depth, or over its first or last half.

    LFM2 spreads its attention evenly and begins with convolutions (arXiv 2511.23404, table 1), as `uniform` does.
    """
    count = math.floor(share * depth + 0.5)
    span = depth if placement == "uniform" else max(count, math.ceil(depth / 2))
    offset = depth - span if placement == "late" else 0
    return tuple(offset + (2 * i + 1) * span // (2 * count) for i in range(count))


def _shares(space: SearchSpace) -> tuple[float, ...]:
    if "attention" not in space.operators:
        return (0.0,)
    return space.attention_share if "conv" in space.operators else (1.0,)


def _ffn_widths(space: SearchSpace, width: int) -> tuple[int, ...]:
    return tuple(max(_FFN_STEP, _FFN_STEP * math.floor(r * width / _FFN_STEP + 0.5)) for r in space.ffn_ratio)


def _kv_heads(space: SearchSpace, width: int) -> tuple[int, ...]:
    """Every choice lowered to the next divisor of the number of heads."""
    heads = width // space.head_dim
    return tuple(max(k for k in range(1, min(choice, heads) + 1) if heads % k == 0) for choice in space.kv_heads)


def _first(values: Sequence[object], index: int) -> int:
    return values.index(values[index])


def _small_architectures(spec: SearchSpec) -> Iterator[Architecture]:
    """For every width, depth and attention pattern the leanest Architecture."""
    space, sizes = spec.space, choices(spec.space)
    kernel = space.kernel.index(min(space.kernel))
    ffn = space.ffn_ratio.index(min(space.ffn_ratio))
    kv_heads = space.kv_heads.index(min(space.kv_heads))
    for width in range(sizes["width"]):
        for depth in range(sizes["depth"]):
            for share in range(sizes["share"]):
                values = (width, depth, ffn, share, 0, kv_heads, kernel)
                yield architecture_of(dict(zip(KNOBS, values, strict=True)), spec)
