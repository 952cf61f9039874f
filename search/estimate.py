"""What is known of an Architecture before it is built: the bytes it cannot do without, and what it may cost."""

from device_agent.contracts import MatrixPrecision
from search.spec import SearchSpec
from trainer.architecture import Architecture, Attention, ShortConv

_SCALE_BYTES = 2  # bfloat16
_CALL_BYTES = 200_000  # a stage's fixed cost, as the weights a core would read meanwhile (20 us at 10 GB/s)


def floor_bytes(architecture: Architecture, spec: SearchSpec) -> int:
    """A lower bound of peak memory above the empty runner, in bytes.

    Counted: the weights of every linear at the deployment's bits with one bfloat16 scale per group, a tied
    embedding once (a Program may hold it twice), float32 norms and convolutions, and the state that the protocol
    fills: keys and values of its positions in its kind of cache, and a convolution's last k-1 inputs. Activations, the
    runtime and a second copy of packed weights come on top.
    """
    quantisation, positions = spec.quantisation, spec.protocol.prefill_tokens + spec.protocol.decode_tokens
    linear = bytes_per_weight(quantisation.weights)
    vocabulary = min(bytes_per_weight(quantisation.embedding), bytes_per_weight(quantisation.head))
    total = architecture.vocabulary_parameters * vocabulary + 4 * architecture.width
    for block in architecture.blocks:
        plain = plain_parameters(architecture, block)
        total += (architecture.block_parameters(block) - plain) * linear + plain * 4
        total += state_bytes(architecture, block, spec, positions)
    return int(total)


def predicted_decode(architecture: Architecture, spec: SearchSpec) -> float:
    """The relative cost of one decoded token: bytes read, plus a fixed cost per stage. Good for ranking only."""
    positions = spec.protocol.prefill_tokens + spec.protocol.decode_tokens
    per_weight = bytes_per_weight(spec.quantisation.weights)
    cache = sum(state_bytes(architecture, block, spec, positions) for block in architecture.blocks)
    return architecture.parameters * per_weight + cache + (architecture.depth + 2) * _CALL_BYTES


def decoder_parameters(architecture: Architecture) -> int:
    """Parameters without embedding and head: the training-free proxy of quality (arXiv 2203.02094, section 4)."""
    return architecture.parameters - architecture.vocabulary_parameters


def plain_parameters(architecture: Architecture, block: ShortConv | Attention) -> int:
    """Parameters of a layer that stay float32: norms, and a convolution's kernel."""
    if isinstance(block, ShortConv):
        return 2 * architecture.width + block.kernel * architecture.width
    return 2 * architecture.width + 2 * block.head_dim


def state_bytes(architecture: Architecture, block: ShortConv | Attention, spec: SearchSpec, positions: int) -> int:
    """Bytes of state that a layer holds after `positions` tokens; an int8 row has a float32 scale."""
    if isinstance(block, ShortConv):
        return 4 * (block.kernel - 1) * architecture.width
    rows = 2 * positions * block.kv_heads
    per_value, per_row = {"float32": (4, 0), "float16": (2, 0), "int8": (1, 4)}[spec.protocol.kv_cache]
    return rows * (block.head_dim * per_value + per_row)


def bytes_per_weight(precision: MatrixPrecision) -> float:
    """What a weight takes, with its share of its group's scale."""
    return precision.bits / 8 + (_SCALE_BYTES / precision.group_size if precision.group_size else 0)
