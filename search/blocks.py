"""The blocks of an Architecture as a phone meets them: one per stage of its composed Program, with the work of each."""

from dataclasses import dataclass
from typing import Literal

from search.estimate import bytes_per_weight, plain_parameters, state_bytes
from search.spec import SearchSpec
from trainer.architecture import Architecture, Attention, ShortConv

Kind = Literal["embedding", "conv", "attention", "ffn", "head"]


@dataclass(frozen=True)
class BlockWork:
    """One block. Two with the same kind and dimensions are the same file, and do the same work.

    `decode` is (bytes of weights, bytes of state) read for a token at the protocol's last position; `prefill` is
    (multiply-adds of linear layers, of attention scores) over the protocol's prompt.
    """

    name: str
    kind: Kind
    dimensions: tuple[int, ...]
    decode: tuple[float, float]
    prefill: tuple[float, float]


def blocks_of(architecture: Architecture, spec: SearchSpec) -> list[BlockWork]:
    """In the order and by the names of the Program's stages (search/export/pieces.py)."""
    a, quantisation = architecture, spec.quantisation
    row = bytes_per_weight(quantisation.embedding) * a.width
    prompt = float(spec.protocol.prefill_tokens)
    blocks = [BlockWork("embedding", "embedding", (a.vocab_size, a.width), (row, 0.0), (prompt * a.width, 0.0))]
    for i, block in enumerate(a.blocks):
        blocks += [_operator(i, block, a, spec), _linear(f"layers.{i}.ffn", "ffn", (a.width, a.ffn_width), 3, spec)]
    head = _linear("head", "head", (a.width, a.vocab_size), 1, spec)
    return [*blocks, BlockWork(head.name, head.kind, head.dimensions, head.decode, (head.prefill[0] / prompt, 0.0))]


def _operator(index: int, block: ShortConv | Attention, a: Architecture, spec: SearchSpec) -> BlockWork:
    linear = a.block_parameters(block) - plain_parameters(a, block) - 3 * a.width * a.ffn_width
    prompt, weights = spec.protocol.prefill_tokens, linear * _per_weight(spec)
    state = float(state_bytes(a, block, spec, prompt + spec.protocol.decode_tokens))
    if isinstance(block, ShortConv):
        dimensions: tuple[int, ...] = (a.width, block.kernel)
        return BlockWork(f"layers.{index}.conv", "conv", dimensions, (weights, state), (prompt * float(linear), 0.0))
    dimensions = (a.width, block.heads, block.kv_heads, block.head_dim)
    scores = float(prompt * prompt * block.heads * block.head_dim)  # half of them, for queries and for values
    prefill = (prompt * float(linear), scores)
    return BlockWork(f"layers.{index}.attention", "attention", dimensions, (weights, state), prefill)


def _linear(name: str, kind: Kind, dimensions: tuple[int, int], matrices: int, spec: SearchSpec) -> BlockWork:
    weights = float(matrices * dimensions[0] * dimensions[1])
    prefill = (weights * spec.protocol.prefill_tokens, 0.0)
    return BlockWork(name, kind, dimensions, (weights * _per_weight(spec), 0.0), prefill)


def _per_weight(spec: SearchSpec) -> float:
    return bytes_per_weight(spec.quantisation.weights)
