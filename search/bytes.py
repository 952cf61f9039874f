"""What every byte of a Program is, computed from the Architecture and the quantisation before anything is built.

A weight is stored once in the file, and most are kept a second time in memory: XNNPACK packs the matrix of a linear
for its kernels when the Program is loaded, and the file's copy is unmapped then. The embedding is never packed: its
rows are read where the file is mapped. A tied matrix is therefore stored twice, once in each layout.

The layouts are ExecuTorch 1.4.1's, and were held to real files and to the allocations of a running Program:

* a rounded linear [out, in]: in the file its integers and scales (`trainer.precision`); packed, the same and two
  float32 a row (the sum of the row's integers, and a bias), rows rounded up to the kernel's `LANES`
  (XNNPACK src/operators/fully-connected-nc.c, create_fully_connected_nc_qx8_f32_qb4w);
* an embedding: its integers and a float32 scale a group (quantized_decomposed.embedding_4bit);
* a float32 linear: packed with a bias a row. The mean of a norm is one, with a single row;
* RoPE: tables of float32 halves for all positions where the KV cache is float32, which every runner can do; else the
  runner's own attention norms and turns what it is given, and a frequency a pair is all that it needs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.precision import EMBEDDING, HEAD, Scheme, TensorBytes

KvType = Literal["float32", "float16", "int8"]
LANES = 8  # output rows that a kernel of AVX2 or NEON computes together; 16 with AVX-512
_BLOB_ALIGNMENT = 128
_PACKED_ALIGNMENT = 64

# What a graph takes beside its weights, from files exported with ExecuTorch 1.4.1: a modelled row, never an exact one.
_GRAPH_BYTES, _GRAPH_BYTES_PER_LAYER = 12_000, 10_000

Part = Literal[
    "embedding",
    "head",
    "conv projections",
    "conv kernels",
    "attention projections",
    "FFN",
    "norms",
    "rope tables",
    "graphs",
    "padding",
]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Weight:
    """A matrix or vector of a Program, [outputs, inputs]; `role` is its parameter's name, empty for a constant."""

    part: Part
    role: str
    outputs: int
    inputs: int
    kind: Literal["linear", "table", "plain"] = "linear"

    @property
    def values(self) -> int:
        """How many numbers."""
        return self.outputs * self.inputs


@dataclass(frozen=True)
class Row:
    """A line of the accounting, in bytes: `exact` is arithmetic, the rest a model of what exporting adds."""

    part: Part
    values: int
    scales: int = 0
    exact: bool = True

    @property
    def bytes(self) -> int:
        """Values and scales."""
        return self.values + self.scales


def weights(architecture: Architecture, kv: KvType = "float32") -> Iterator[Weight]:
    """Every weight of the deployed model with this cache, in the order of the chain."""
    d, v = architecture.width, architecture.vocab_size
    yield Weight("embedding", EMBEDDING, v, d, "table")
    for index, block in enumerate(architecture.blocks):
        layer = f"model.layers.{index}"
        yield from _norm(f"{layer}.operator_norm.weight", d)
        yield from _conv(layer, d, block) if isinstance(block, ShortConv) else _attention(layer, d, block, kv)
        yield from _norm(f"{layer}.ffn_norm.weight", d)
        for name in ("w1", "w3"):
            yield Weight("FFN", f"{layer}.feed_forward.{name}.weight", architecture.ffn_width, d)
        yield Weight("FFN", f"{layer}.feed_forward.w2.weight", d, architecture.ffn_width)
    yield from _norm("model.embedding_norm.weight", d)
    yield Weight("head", HEAD, v, d)


def _conv(layer: str, width: int, block: ShortConv) -> Iterator[Weight]:
    for _ in ("B", "C", "x"):  # the deployed module has a projection for each
        yield Weight("conv projections", f"{layer}.conv.in_proj.weight", width, width)
    yield Weight("conv kernels", f"{layer}.conv.conv.weight", width, block.kernel, "plain")
    yield Weight("conv projections", f"{layer}.conv.out_proj.weight", width, width)


def _attention(layer: str, width: int, block: Attention, kv: KvType) -> Iterator[Weight]:
    at, q, rows = f"{layer}.self_attn", block.heads * block.head_dim, block.kv_heads * block.head_dim
    for name, outputs in (("q_proj", q), ("k_proj", rows), ("v_proj", rows)):
        yield Weight("attention projections", f"{at}.{name}.weight", outputs, width)
    for name in ("q_layernorm", "k_layernorm"):
        weight, mean = _norm(f"{at}.{name}.weight", block.head_dim)
        yield from (weight, mean) if kv == "float32" else (weight,)
    yield Weight("attention projections", f"{at}.out_proj.weight", width, q)


def _norm(role: str, width: int) -> Iterator[Weight]:
    """Its weight, and the row of 1/n by which the deployed module takes the mean."""
    yield Weight("norms", role, width, 1, "plain")
    yield Weight("norms", "", 1, width)


def is_plain(weight: Weight, scheme: Scheme) -> bool:
    """Whether it stays float32."""
    return weight.kind == "plain" or not weight.role or scheme.of(weight.role).bits == 32


def stored(weight: Weight, scheme: Scheme) -> TensorBytes:
    """Its bytes in the file.

    Raises:
        QuantisationError: the groups do not divide the inputs.
    """
    if is_plain(weight, scheme):
        return TensorBytes(4 * weight.values, 0)
    return scheme.bytes_of(weight.role, (weight.outputs, weight.inputs))


def packed(weight: Weight, scheme: Scheme, lanes: int = LANES) -> int:
    """Bytes on the heap after loading; 0 for what is read where the file is mapped."""
    if weight.kind != "linear":
        # A convolution's kernel is packed with a bias a channel; norms and the table are read from the file.
        return 4 * weight.outputs * (weight.inputs + 1) if weight.part == "conv kernels" else 0
    row = stored(weight, scheme).total // weight.outputs + (4 if is_plain(weight, scheme) else 8)
    return _up(_up(weight.outputs, lanes) * row, _PACKED_ALIGNMENT)


def file_rows(architecture: Architecture, scheme: Scheme, context: int, kv: KvType = "float32") -> list[Row]:
    """The monolithic file of an Architecture, by part. Equal constants are stored once: rope tables, norms' means.

    Raises:
        QuantisationError: the groups do not divide the inputs.
    """
    rows: dict[Part, Row] = {}
    padding = 0
    for weight in weights(architecture, kv):
        if weight.role:
            size = stored(weight, scheme)
            _add(rows, weight.part, size)
            padding += sum(_up(part, _BLOB_ALIGNMENT) - part for part in size)
    means = {weight.inputs for weight in weights(architecture, kv) if not weight.role}
    _add(rows, "norms", TensorBytes(4 * sum(means), 0))
    if tables := rope_bytes(architecture, context, kv):
        _add(rows, "rope tables", TensorBytes(tables, 0))
    rows["graphs"] = Row("graphs", _GRAPH_BYTES + _GRAPH_BYTES_PER_LAYER * architecture.depth, exact=False)
    rows["padding"] = Row("padding", padding, exact=False)
    return [rows[part] for part in PARTS if part in rows]


def head_dims(architecture: Architecture) -> list[int]:
    """Every head_dim that occurs: a pair of rope tables, or frequencies, each."""
    return sorted({block.head_dim for block in architecture.blocks if isinstance(block, Attention)})


def rope_bytes(architecture: Architecture, positions: int, kv: KvType = "float32") -> int:
    """Cosines and sines of `positions`, or a frequency, for every pair of a head; float32."""
    each = 2 * positions if kv == "float32" else 1
    return sum(4 * each * (width // 2) for width in head_dims(architecture))


def packed_by_part(
    architecture: Architecture, scheme: Scheme, lanes: int = LANES, kv: KvType = "float32"
) -> dict[Part, int]:
    """Bytes on the heap after loading, by part."""
    sums = dict.fromkeys(PARTS, 0)
    for weight in weights(architecture, kv):
        sums[weight.part] += packed(weight, scheme, lanes)
    return {part: size for part, size in sums.items() if size}


def total(rows: Iterable[Row]) -> int:
    """Bytes of all rows."""
    return sum(row.bytes for row in rows)


def _add(rows: dict[Part, Row], part: Part, size: TensorBytes) -> None:
    before = rows.get(part, Row(part, 0))
    rows[part] = Row(part, before.values + size.weights, before.scales + size.scales)


def _up(size: int, step: int) -> int:
    return ceil(size / step) * step
