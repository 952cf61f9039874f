"""The shapes that `make bench-device` runs, and what they weigh."""

from math import prod

import torch

from trainer.architecture import LFM2_1_2B, LFM2_350M, LFM2_700M, Architecture, Attention, ShortConv
from trainer.model import HybridLM

# A shape from the middle of the demo's search space.
_DEMO_BLOCKS = tuple(Attention(heads=6, kv_heads=2, head_dim=32) if i in (1, 4) else ShortConv() for i in range(6))
DEMO = Architecture(vocab_size=2048, width=192, ffn_width=576, blocks=_DEMO_BLOCKS)

SHAPES = {"demo": DEMO, "350m": LFM2_350M, "700m": LFM2_700M, "1.2b": LFM2_1_2B}
CONTEXT, CHUNK, PREFILL = 1024, 128, 128
BITS = 4.5  # a weight and its share of a scale, in Q4_0 as in groups of 32 with bfloat16 scales


def parameters(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by its name in `trainer.model`."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in HybridLM(architecture).state_dict().items()}


def decoded_weights(architecture: Architecture) -> int:
    """Weights that one decoded token reads: every matrix, the tied one as head; its row as embedding is nothing."""
    return sum(prod(shape) for shape in parameters(architecture).values() if len(shape) == 2)


def prefill_operations(architecture: Architecture, length: int) -> int:
    """Multiplications and additions of a prompt's linears; the head sees its last position alone."""
    head = architecture.vocab_size * architecture.width
    return 2 * ((decoded_weights(architecture) - head) * length + head)
