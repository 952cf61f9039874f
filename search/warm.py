"""The first points of a search, chosen without training anything."""

from collections.abc import Callable

from search.estimate import decoder_parameters, predicted_decode
from search.front import front_of
from search.space import KNOBS, Params, architecture_of, canonical, choices, key, may_fit
from search.spec import SearchSpec
from trainer.architecture import Architecture

Cost = Callable[[Architecture], float]

_MOST = 12
_SHAPES = ("width", "depth", "ffn")


def warm_start(spec: SearchSpec, cost: Cost | None = None) -> list[Params]:
    """An LFM2-like baseline, then shapes from the front of decoder parameters against predicted cost, all distinct.

    The cost is that of a decoded token: by default the bytes it reads.
    At most half of the effort, and at most 12. Decoder parameters rank shapes well and are blind to attention
    (reference/search.md, section 5), so the attention knobs run through their choices. The order jumps between
    small and large, so that the first batch already spans the front.
    """
    wanted = min(_MOST, max(1, spec.effort.candidates // 2))
    picks = [_baseline(spec)] if _any_attention(spec) else []
    shapes = _shape_front(spec, cost or (lambda architecture: predicted_decode(architecture, spec)))
    for i in _spread(len(shapes), wanted):
        picks.append(_with_attention(shapes[i], len(picks), spec))
    distinct = {key(params): params for params in picks if may_fit(params, spec)}
    return list(distinct.values())[:wanted]


def _shape_front(spec: SearchSpec, cost: Cost) -> list[Params]:
    """Width, depth and FFN of the front, by rising decoder parameters."""
    sizes, zeros = choices(spec.space), dict.fromkeys(KNOBS, 0)
    grid = {
        key(shape): shape
        for w in range(sizes["width"])
        for d in range(sizes["depth"])
        for f in range(sizes["ffn"])
        if may_fit(shape := canonical(zeros | {"width": w, "depth": d, "ffn": f}, spec.space), spec)
    }
    shapes = list(grid.values())
    models = [architecture_of(shape, spec) for shape in shapes]
    points = [(-float(decoder_parameters(m)), cost(m)) for m in models]
    return sorted((shapes[i] for i in front_of(points)), key=lambda p: decoder_parameters(architecture_of(p, spec)))


def _with_attention(shape: Params, turn: int, spec: SearchSpec) -> Params:
    sizes = choices(spec.space)
    share = turn % sizes["share"]
    placement = (turn // sizes["share"] + turn) % sizes["placement"]
    others = {"share": share, "placement": placement, "kv_heads": turn % sizes["kv_heads"]}
    return canonical(dict.fromkeys(KNOBS, 0) | {name: shape[name] for name in _SHAPES} | others, spec.space)


def _baseline(spec: SearchSpec) -> Params:
    """Middle sizes with LFM2's proportions: 6 of 16 blocks attention, spread evenly, kernel 3."""
    space, sizes = spec.space, choices(spec.space)
    raw = {
        "width": sizes["width"] // 2,
        "depth": sizes["depth"] // 2,
        "ffn": sizes["ffn"] // 2,
        "share": min(range(sizes["share"]), key=lambda i: abs(space.attention_share[i] - 6 / 16)),
        "placement": space.placement.index("uniform") if "uniform" in space.placement else 0,
        "kv_heads": sizes["kv_heads"] - 1,
        "kernel": space.kernel.index(3) if 3 in space.kernel else 0,
    }
    return canonical(raw, space)


def _any_attention(spec: SearchSpec) -> bool:
    return {"attention", "conv"} <= set(spec.space.operators)


def _spread(available: int, wanted: int) -> list[int]:
    """Up to `wanted` indices spread over `available`, both ends among them, ends first and then ever finer."""
    n = min(available, wanted)
    even = [round(i * (available - 1) / max(1, n - 1)) for i in range(n)]
    order = sorted(range(n), key=lambda i: (-_twos(i, n), i))
    return [even[i] for i in order]


def _twos(i: int, n: int) -> int:
    """How coarse a grid holds `i`: the ends most, then the middle."""
    return n if i in (0, n - 1) else (i & -i)
