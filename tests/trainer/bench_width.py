"""Is the best rate of one width that of another? Held-out bits per byte over widths and rates, AdamW or Muon.

The text is the standard library's source. With `--standard`, one rate serves every width and there is no output
multiplier: what muP is held against.
"""

import argparse
import json
import os
import sysconfig
import tempfile
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.data import Corpus, prepare
from trainer.engine import Run, bits_per_byte, hard_labels, train
from trainer.model import HybridLM
from trainer.optimisers import make_optimiser
from trainer.recipe import Recipe
from trainer.sources import Source

VOCABULARY = 2048


def library(directory: Path) -> Corpus:
    root = Path(sysconfig.get_path("stdlib"))
    folders = [root / name for name in ("asyncio", "email", "xml", "concurrent", "unittest", "json")]
    files = [*sorted(root.glob("*.py")), *(file for folder in folders for file in sorted(folder.rglob("*.py")))]
    sources = [Source(path=file) for file in files if file.stat().st_size > 500]
    return prepare(sources, directory, vocab_size=VOCABULARY, seed=1)


def architecture(width: int) -> Architecture:
    attention = Attention(heads=width // 32, kv_heads=width // 64, head_dim=32)
    blocks = (ShortConv(), attention, ShortConv()) * 2
    return Architecture(vocab_size=VOCABULARY, width=width, ffn_width=2 * width, blocks=blocks)


def trained(corpus: Corpus, width: int, rate: float, seed: int, arguments: argparse.Namespace) -> float:
    model = HybridLM(architecture(width), seed=seed)
    recipe = Recipe(tokens=arguments.tokens, batch=4, learning_rate=rate, seed=seed, optimiser=arguments.optimiser)
    optimiser = make_optimiser(model, recipe)
    if arguments.standard:
        nn.init.ones_(model.model.embedding_norm.weight)
        for group in optimiser.param_groups:
            group["scale"] *= width / 128 if group["weight_decay"] and not group["orthogonal"] else 1.0
            if group["params"][0] is model.model.embedding_norm.weight:
                group["scale"] = 1.0
    train(model, corpus, recipe, hard_labels, Run(), optimiser)
    return bits_per_byte(model, corpus, windows=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.006, 0.012, 0.024])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=30_000)
    parser.add_argument("--optimiser", choices=["adamw", "muon"], default="adamw")
    parser.add_argument("--standard", action="store_true", help="the standard parametrisation instead of muP")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    console = Console(width=120)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = library(Path(folder) / "corpus")
        for width, rate in product(arguments.widths, arguments.rates):
            seeds = range(arguments.seeds)
            found[f"{width} {rate}"] = [trained(corpus, width, rate, seed, arguments) for seed in seeds]
            console.print(f"width {width}, rate {rate}: {fmean(found[f'{width} {rate}']):.4f}")
    table = Table("rate", *(f"width {width}" for width in arguments.widths), title="Held-out bits per byte")
    for rate in arguments.rates:
        table.add_row(f"{rate}", *(f"{fmean(found[f'{width} {rate}']):.3f}" for width in arguments.widths))
    console.print(table)
    record: dict[str, Any] = {"optimiser": arguments.optimiser, "standard": arguments.standard, "bits_per_byte": found}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
