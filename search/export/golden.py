"""The Program of a phone's self-check: tiny, 4-bit, weights that never change, and what eager PyTorch says of it.

The bound is that of the runs' token check. With Q the eager quantised logits and W those of the same weights with
unrounded activations, the exported Program and Q are two roundings of W of the same step, so by the triangle
inequality a logit may differ by 2 max|Q - W|. It tells models apart: the same network with unrounded weights is
outside it (tests/search/test_golden.py).
"""

import torch

from device_agent.contracts import Golden, Program, Quantisation
from search.export.programs import export_model
from search.numerics import scheme_of
from search.ports import Store
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.model import HybridLM
from trainer.quantise import pack, quantised

ARCHITECTURE = Architecture(
    vocab_size=64,
    width=64,
    ffn_width=96,
    blocks=(ShortConv(kernel=3), Attention(heads=4, kv_heads=2, head_dim=16)),
)
CONTEXT, CHUNK, PREFILL, TOKENS = 64, 16, 4, 48
_SEED = 1
_LOUDER = ("v_proj.weight", "self_attn.out_proj.weight")


def golden_model() -> HybridLM:
    """The network in float32, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = HybridLM(ARCHITECTURE).eval()
    # An untrained model's logits are too flat, and its attention too quiet, to tell a fault from rounding.
    for name, parameter in model.named_parameters():
        parameter.data *= 6.0 if name.endswith(_LOUDER) else 2.0
    return model


@torch.no_grad()
def golden_logits(model: HybridLM) -> Golden:
    """What the 4-bit eager model says along fixed tokens, and the bound."""
    tokens = torch.randint(0, ARCHITECTURE.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(_SEED))
    packing = pack(model, scheme_of(Quantisation()))
    rounded = quantised(model, packing)(tokens)[0, PREFILL - 1 :]
    unrounded = quantised(model, packing.unrounded_activations())(tokens)[0, PREFILL - 1 :]
    return Golden(
        tokens=tuple(tokens[0].tolist()),
        prefill=PREFILL,
        logits=tuple(map(tuple, rounded.tolist())),
        bound=2 * (rounded - unrounded).abs().max().item(),
    )


def export_golden(store: Store) -> tuple[Program, Golden]:
    """Export into `store`; the Program, and what it must say."""
    model = golden_model()
    program = export_model(model, context_length=CONTEXT, prefill_chunk=CHUNK, quantisation=Quantisation(), store=store)
    return program, golden_logits(model)
