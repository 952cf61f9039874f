"""The memory that a Program takes while it runs, computed before it is built, and the promise it must keep.

The heap: weights packed for their kernels (`search.bytes`), the state, the arena of activations that ExecuTorch plans
ahead of time, and XNNPACK's workspace for what lives inside a delegate. Beside it pages of the mapped file: the
embedding's rows that were read, rope tables up to the last position. Those are clean, and a system short of memory may
drop them; here all of them count.
"""

from dataclasses import dataclass, field
from typing import Literal

from search.bytes import LANES, KvType, packed_by_part, rope_bytes, stored, weights
from trainer.architecture import Architecture, ShortConv
from trainer.precision import Scheme

PROMISE = 10**9  # bytes of peak memory on the phone, all in all
EMPTY_RUNNER = 6_500_000  # measured: the native runner on this host, before it loads a Program
Certainty = Literal["exact", "modelled", "measured"]

_RUNNING = 2_500_000  # measured: pages of code and tables of operators, once a Program has run
# Modelled on what ExecuTorch 1.4.1 and XNNPACK planned for exported Programs of several widths.
_ARENA_ROWS = 7.5  # rows of `width` that outlive a delegate
_FFN_ROWS, _RESIDUAL_ROWS = 3, 3  # rows that live at once inside a delegate: two branches and their gate; x, its norm


@dataclass(frozen=True)
class Deployment:
    """How a model is exported and run."""

    scheme: Scheme = field(default_factory=Scheme)
    context: int = 4096
    chunk: int = 128
    kv: KvType = "float32"


@dataclass(frozen=True)
class Term:
    """Bytes of memory, where they lie, and how they are known."""

    name: str
    bytes: int
    certainty: Certainty
    mapped: bool = False


def terms(
    architecture: Architecture, deployment: Deployment, *, planned: int | None = None, lanes: int = LANES
) -> list[Term]:
    """What a monolithic Program adds to the empty runner once its context has been filled.

    Args:
        architecture: of the model.
        deployment: how it is exported and run.
        planned: the arena's bytes where a Program says them; else they are modelled.
        lanes: output rows that a kernel computes together.

    Raises:
        QuantisationError: the groups do not divide the inputs.
    """
    scheme, chunk = deployment.scheme, deployment.chunk
    packed = [
        Term(f"packed weights: {part}", size, "exact")
        for part, size in packed_by_part(architecture, scheme, lanes, deployment.kv).items()
    ]
    inside = 4 * chunk * (_FFN_ROWS * architecture.ffn_width + _RESIDUAL_ROWS * architecture.width)
    table = next(stored(weight, scheme).total for weight in weights(architecture) if weight.kind == "table")
    return [
        *packed,
        Term("KV cache", kv_bytes(architecture, deployment.context, deployment.kv), "exact"),
        Term("convolution states", conv_state_bytes(architecture), "exact"),
        Term(
            "activations: arena", _arena(architecture, deployment, planned), "modelled" if planned is None else "exact"
        ),
        Term("activations: XNNPACK workspace", inside, "modelled"),
        Term("embedding, mapped", table, "exact", mapped=True),
        Term("rope tables, mapped", rope_bytes(architecture, deployment.context, deployment.kv), "exact", mapped=True),
        Term("code and operators in use", _RUNNING, "measured"),
    ]


def while_loading(architecture: Architecture, deployment: Deployment, *, planned: int | None = None) -> int:
    """Bytes above the empty runner while the head is packed, its weights in the file mapped beside; no state yet."""
    head = next(stored(weight, deployment.scheme).total for weight in weights(architecture) if weight.part == "head")
    packed = sum(packed_by_part(architecture, deployment.scheme, kv=deployment.kv).values())
    return packed + head + _arena(architecture, deployment, planned) + _RUNNING


def predicted_peak(architecture: Architecture, deployment: Deployment, *, planned: int | None = None) -> int:
    """Peak memory above the empty runner, in bytes, once the context has been filled."""
    running = sum(term.bytes for term in terms(architecture, deployment, planned=planned))
    return max(running, while_loading(architecture, deployment, planned=planned))


def _arena(architecture: Architecture, deployment: Deployment, planned: int | None) -> int:
    return round(_ARENA_ROWS * 4 * deployment.chunk * architecture.width) if planned is None else planned


def kv_bytes(architecture: Architecture, positions: int, kv: KvType = "float32") -> int:
    """Keys and values of `positions`. In int8 every head's row has a float32 scale."""
    total = 0
    for block in architecture.blocks:
        if not isinstance(block, ShortConv):
            row = {"float32": 4 * block.head_dim, "float16": 2 * block.head_dim, "int8": block.head_dim + 4}[kv]
            total += 2 * positions * block.kv_heads * row
    return total


def conv_state_bytes(architecture: Architecture) -> int:
    """The last inputs of every convolution, float32."""
    kernels = [block.kernel for block in architecture.blocks if isinstance(block, ShortConv)]
    return sum(4 * (kernel - 1) * architecture.width for kernel in kernels)
