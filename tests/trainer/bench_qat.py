"""What rounding costs, by every way to round: `make bench-qat`.

A small model is trained on the standard library's source, mixed with a task: a quarter of the windows recite facts, the
entries of a random table of 400 pairs. From it every way goes on with the same tokens (those that train) or none, over
several seeds: the order of the text, the calibration windows, the noise. Judged on held-out text (loss in nats a token,
bits per byte, top-1 accuracy of the next token) and on the task: how many of the facts it still knows, asked in another
order.

Differences are taken within a seed; one whose 95 % interval (Student's t) holds zero is said not to be there.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from intervals import effect, interval, machine
from torch import Tensor

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.calibrate import calibration
from trainer.checkpoint import Checkpoint, seal
from trainer.data import Batch, Corpus, prepare
from trainer.engine import Run, hard_labels, train
from trainer.fake_quantise import masters, pack_trained
from trainer.gptq import post_training
from trainer.mixed import assign, sensitivities
from trainer.model import HybridLM
from trainer.options import CANDIDATES
from trainer.precision import FULL, Precision, Scheme
from trainer.qat import Qat
from trainer.quantise import quantised
from trainer.recipe import Recipe
from trainer.sources import Source
from trainer.step import Loss

ARCHITECTURE = Architecture(
    vocab_size=1024, width=128, ffn_width=256, blocks=(ShortConv(), Attention(heads=4, kv_heads=2, head_dim=32)) * 2
)
BATCH, SEQUENCE, WINDOWS = 8, 128, 256
KEYS, FIRST_KEY = 20, 300
FIGURES = {"loss": "nats/token", "bits_per_byte": "bits/byte", "top_1": "top-1", "task": "task"}
_UNROUNDED = Scheme(weights=FULL, activations=False)


class Way(NamedTuple):
    """A row of the table: without training, or a QAT stage's options."""

    name: str
    qat: dict[str, Any] | None = None
    method: str = "nearest"
    scales: str = "absmax"
    more_bytes: float = 0.0
    rounded: bool = True


SLOW = {"learning_rate": 6e-4}
BF16, BF16_NEAREST = {"masters": "bfloat16"}, {"masters": "bfloat16", "stochastic_rounding": False}
WAYS = [
    Way("full precision", rounded=False),
    Way("full precision, trained on", {}, rounded=False),
    Way("to nearest"),
    Way("to nearest, searched scales", scales="searched"),
    Way("GPTQ", method="gptq"),
    Way("GPTQ, searched scales", method="gptq", scales="searched"),
    Way("searched, mixed precision, +10 % bytes", scales="searched", more_bytes=0.1),
    Way("QAT without self-distillation", {"distillation": 0.0}),
    Way("QAT", {}),
    Way("QAT, searched scales", {"scales": "searched"}),
    Way("QAT, learned scales", {"scales": "learned"}),
    Way("QAT, stochastic forward", {"stochastic_forward": True}),
    Way("QAT, bf16 masters to nearest", BF16_NEAREST),
    Way("QAT, bf16 masters stochastic", BF16),
    Way("QAT, bf16 stochastic, no self-dist.", {**BF16, "distillation": 0.0}),
    Way("QAT, a tenth of the rate", SLOW),
    Way("  bf16 masters to nearest", {**SLOW, **BF16_NEAREST}),
    Way("  bf16 masters stochastic", {**SLOW, **BF16}),
]
EFFECTS = [  # (what, the way with it, the way without it)
    ("searching scales, after training", "to nearest, searched scales", "to nearest"),
    ("GPTQ", "GPTQ", "to nearest"),
    ("GPTQ beside searched scales", "GPTQ, searched scales", "to nearest, searched scales"),
    ("mixed precision for 10 % more bytes", "searched, mixed precision, +10 % bytes", "to nearest, searched scales"),
    ("QAT against the best without training", "QAT", "GPTQ, searched scales"),
    ("QAT against training on unrounded", "QAT", "full precision, trained on"),
    ("self-distillation (QAD)", "QAT", "QAT without self-distillation"),
    ("searched scales in QAT", "QAT, searched scales", "QAT"),
    ("learned scales in QAT", "QAT, learned scales", "QAT"),
    ("stochastic rounding of the forward pass", "QAT, stochastic forward", "QAT"),
    ("bf16 masters to nearest, for fp32", "QAT, bf16 masters to nearest", "QAT"),
    ("bf16 masters stochastic, for fp32", "QAT, bf16 masters stochastic", "QAT"),
    ("stochastic for nearest, bf16 masters", "QAT, bf16 masters stochastic", "QAT, bf16 masters to nearest"),
    ("  the same at a tenth of the rate", "  bf16 masters stochastic", "  bf16 masters to nearest"),
    ("  bf16 stochastic for fp32, there", "  bf16 masters stochastic", "QAT, a tenth of the rate"),
]


@cache
def facts() -> Tensor:
    """c [KEYS, KEYS] of every pair (a, b): a table that never changes and has no rule."""
    return torch.randint(0, KEYS, (KEYS, KEYS), generator=torch.Generator().manual_seed(7))


def recited(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens [rows, SEQUENCE + 1], one fact "a b c" after the other; and where c is to be told [rows, SEQUENCE]."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, KEYS, (2, rows, SEQUENCE // 3 + 1), generator=generator)
    offsets = FIRST_KEY + KEYS * torch.arange(3)
    tokens = (torch.stack([a, b, facts()[a, b]], dim=-1) + offsets).flatten(1)[:, : SEQUENCE + 1]
    asked = (torch.arange(SEQUENCE) % 3 == 1).expand(rows, -1)
    return tokens, asked


class Mixed:
    """Text and task: the loss of a step whose every fourth window recites facts."""

    def __init__(self, loss: Loss, seed: int) -> None:
        self._loss, self._seed, self.step = loss, seed, 0

    def __call__(self, model: HybridLM, batch: Batch) -> Tensor:
        tokens, _ = recited(BATCH // 4, (self._seed << 32) + self.step)
        self.step += 1
        inputs, targets, documents = batch.inputs.clone(), batch.targets.clone(), batch.documents.clone()
        inputs[::4], targets[::4], documents[::4] = tokens[:, :-1], tokens[:, 1:], 0
        return self._loss(model, Batch(inputs, targets, documents, batch.indices))


@torch.no_grad()
def judged(model: HybridLM, corpus: Corpus) -> dict[str, float]:
    nats, right, count, read = 0.0, 0, 0, 0
    for part in corpus.held_out(size=16, sequence=SEQUENCE, windows=WINDOWS):
        logits, targets = model(part.inputs, documents=part.documents).flatten(0, 1), part.targets.flatten()
        nats += F.cross_entropy(logits, targets, reduction="sum").item()
        right += int((logits.argmax(-1) == targets).sum())
        count += targets.numel()
        read += int(corpus.token_bytes[targets].sum())
    tokens, asked = recited(64, -1)
    hit = (model(tokens[:, :-1]).argmax(-1) == tokens[:, 1:])[asked]
    found = {"loss": nats / count, "bits_per_byte": nats / math.log(2) / read, "top_1": right / count}
    return found | {"task": float(hit.float().mean())}


def train_base(corpus: Corpus, home: Path, tokens: int) -> Checkpoint:
    model = HybridLM(ARCHITECTURE, seed=0)
    recipe = Recipe(tokens=tokens, batch=BATCH, sequence=SEQUENCE)

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        print(f"\rbase model: {done:,} of {total:,} tokens, loss {metrics['loss']:.3f} ", end="", file=sys.stderr)

    run = Run(report=report)
    train(model, corpus, recipe, Mixed(hard_labels, 0), run)
    print(f"in {run.seconds:.0f} s", file=sys.stderr)
    return seal(model, home, corpus.tokenizer)


@cache
def opened(corpus: Path, base: Path) -> tuple[Corpus, HybridLM]:
    torch.set_num_threads(1)
    return Corpus.open(corpus), Checkpoint(base).model().requires_grad_(False)


def done(way: Way, seed: int, tokens: int, weights: Precision, corpus_dir: Path, base: Path) -> dict[str, float]:
    """One row's figures for one seed; in a process of its own."""
    corpus, full = opened(corpus_dir, base)
    scheme = Scheme(weights=weights) if way.rounded else _UNROUNDED
    if way.qat is not None:
        stage = Qat(tokens=tokens, batch=BATCH, sequence=SEQUENCE, seed=seed, scheme=scheme, **way.qat)
        model = stage.prepared(Checkpoint(base).model(), scheme)
        run = Run(before_step=stage.forward_noise(model))
        train(model, corpus, stage, Mixed(stage.loss(full), seed), run, stage.optimiser_of)
        return judged(quantised(masters(model), pack_trained(model, scheme)), corpus)
    batches = calibration(corpus, windows=64, sequence=SEQUENCE, seed=seed)
    if way.more_bytes:
        budget = round(scheme.bytes(full.architecture) * (1 + way.more_bytes))
        scheme = assign(sensitivities(full, batches[:2], CANDIDATES), scheme, full.architecture, budget)
    found = post_training(full, scheme, batches, method=way.method, scales=way.scales)  # type: ignore[arg-type]
    return judged(quantised(full, found), corpus)


def table(results: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{'':42}" + "".join(f"{unit:>20}" for unit in FIGURES.values()))
    for name, rows in results.items():
        cells = [interval([row[figure] for row in rows]) for figure in FIGURES]
        print(f"{name:42}" + "".join(f"{mean:12.4f} ±{half:6.4f}" for mean, half in cells))


def effects(results: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    print("\nEffects, differences within a seed (bits/byte and nats: lower is better; accuracies: higher)")
    told = []
    for what, with_it, without in EFFECTS:
        cells, entry = [], dict[str, Any](effect=what)
        for figure in FIGURES:
            pairs = zip(results[with_it], results[without], strict=True)
            found = entry[figure] = effect((one[figure], other[figure]) for one, other in pairs)
            cells.append(f"{found['mean']:+9.4f} ±{found['half']:6.4f} {'yes' if found['there'] else ' no'}")
        print(f"{what:42}" + "".join(f"{cell:>22}" for cell in cells))
        told.append(entry)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=30_000, help="of every training under rounding")
    parser.add_argument("--base-tokens", type=int, default=300_000, help="of the model that is rounded")
    parser.add_argument("--weights", type=Precision.parse, default="4g32", help="precision of all matrices")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--home", type=Path, help="keep corpus and base model here, and use what is there")
    parser.add_argument("--out", type=Path, help="write everything here as JSON")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        home = given.home or Path(scratch)
        corpus = prepare([Source(format="stdlib")], home / "corpus", vocab_size=ARCHITECTURE.vocab_size)
        kept = home / f"base-{given.base_tokens}"
        bases = list(kept.glob("*/architecture.json"))
        base = Checkpoint(bases[0].parent) if bases else train_base(corpus, kept, given.base_tokens)
        results: dict[str, list[dict[str, float]]] = {way.name: [] for way in WAYS}
        with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
            jobs = {
                pool.submit(done, way, seed, given.tokens, given.weights, corpus.directory, base.directory): (way, seed)
                for seed in range(1, given.seeds + 1)
                for way in WAYS
            }
            for count, future in enumerate(as_completed(jobs), start=1):
                print(f"\r{count} of {len(jobs)}, {time.monotonic() - begun:.0f} s ", end="", file=sys.stderr)
                future.result()
            print(file=sys.stderr)
        for future, (way, _) in jobs.items():
            results[way.name].append(future.result())
    print(
        f"{ARCHITECTURE.parameters:,} parameters, {given.base_tokens:,} tokens of training, then {given.tokens:,} "
        f"under rounding to {given.weights} with 8-bit activations; mean of {given.seeds} seeds ± half a 95 % interval"
    )
    table(results)
    told = effects(results)
    print(f"\n{machine()}")
    print(f"{time.monotonic() - begun:.0f} s in {given.processes} processes")
    if given.out:
        arguments = {name: str(value) for name, value in vars(given).items()}
        given.out.write_text(json.dumps({"arguments": arguments, "results": results, "effects": told}, indent=2))


if __name__ == "__main__":
    main()
