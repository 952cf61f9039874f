"""A checkpoint that speaks, though nothing that makes sense."""

from pathlib import Path

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint, seal
from trainer.model import HybridLM
from trainer.tokenizer import train_tokenizer


def tiny_checkpoint(parent: Path) -> Checkpoint:
    texts = ["Hello there, user. I am the assistant of the system, and you answer.\n" * 30]
    architecture = Architecture(
        vocab_size=320, width=32, ffn_width=64, blocks=(ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16))
    )
    return seal(HybridLM(architecture), parent, train_tokenizer(texts, 320))
