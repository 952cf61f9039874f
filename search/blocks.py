"""The blocks of an Architecture as a phone meets them: one per stage of its composed Program, with the work of each."""

from dataclasses import dataclass
from typing import Literal

from search.estimate import plain_parameters
from search.spec import SearchSpec
from trainer.architecture import Architecture, Attention, ShortConv

Kind = Literal["embedding", "conv", "attention", "ffn", "head"]


@dataclass(frozen=True)
class BlockWork:
    """One block. Two with the same kind and dimensions are the same file, and do the same work.

    `decode` is (weights, numbers of state) read for a token at the protocol's last position; `prefill` is
    (multiply-adds of linear layers, of attention scores) over the protocol's prompt. All of a search have the same
    bits, so that numbers stand for bytes.
    """

    name: str
    kind: Kind
    dimensions: tuple[int, ...]
    decode: tuple[float, float]
    prefill: tuple[float, float]


def blocks_of(architecture: Architecture, spec: SearchSpec) -> list[BlockWork]:
    """In the order and by the names of the Program's stages (search/export/pieces.py)."""
    a, prompt = architecture, float(spec.protocol.prefill_tokens)
    rows = (prompt * a.width, 0.0)
    blocks = [BlockWork("embedding", "embedding", (a.vocab_size, a.width), (float(a.width), 0.0), rows)]
    for i, block in enumerate(a.blocks):
        ffn = 3.0 * a.width * a.ffn_width
        dimensions = (a.width, a.ffn_width)
        blocks.append(_operator(i, block, a, spec))
        blocks.append(BlockWork(f"layers.{i}.ffn", "ffn", dimensions, (ffn, 0.0), (prompt * ffn, 0.0)))
    head = (float(a.width * a.vocab_size), 0.0)  # of the last position alone
    return [*blocks, BlockWork("head", "head", (a.width, a.vocab_size), head, head)]


def _operator(index: int, block: ShortConv | Attention, a: Architecture, spec: SearchSpec) -> BlockWork:
    linear = float(a.block_parameters(block) - plain_parameters(a, block) - 3 * a.width * a.ffn_width)
    prompt = spec.protocol.prefill_tokens
    if isinstance(block, ShortConv):
        state = float((block.kernel - 1) * a.width)
        return BlockWork(
            f"layers.{index}.conv", "conv", (a.width, block.kernel), (linear, state), (prompt * linear, 0.0)
        )
    cache = 2.0 * (prompt + spec.protocol.decode_tokens) * block.kv_heads * block.head_dim
    scores = float(prompt * prompt * block.heads * block.head_dim)  # half of them, for queries and for values
    dimensions = (a.width, block.heads, block.kv_heads, block.head_dim)
    return BlockWork(f"layers.{index}.attention", "attention", dimensions, (linear, cache), (prompt * linear, scores))
