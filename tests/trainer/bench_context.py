"""Recall and bits per byte by position, before and after a context is stretched: `make bench-context`.

The factors of 4k -> 32k -> 128k at lengths that a CPU can do: a small hybrid model is trained at 256 tokens, then
extended to 2,048 (by 8) and to 8,192 (by 32, relative to 256), with equal tokens, in three ways: YaRN, a raised RoPE
base, and plain continued training. Beside them stand the models that were not trained on: as they were, and under
YaRN's tables.

Half of the training windows, before and after, are haystacks: the standard library's source with up to 64 needles,
random keys and values of two tokens each, asked for at the end. Evaluated on held-out text, with other needles. Each
RoPE base is a table of its own: at 1,000,000, LFM2's, plain training may do; at 10,000 it has more to learn. Intervals
are 95 % (Student's t) over seeds of weights, order and needles.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.curriculum import Curriculum
from trainer.data import Corpus, prepare
from trainer.engine import Run, hard_labels, train
from trainer.evaluate import Task, Text, bits_by_position, episodes, recall
from trainer.extend import Extend, raised
from trainer.model import HybridLM
from trainer.recipe import Recipe
from trainer.sources import Source

ORIGINAL, LENGTHS = 256, (256, 2048, 8192)
VOCABULARY = 512
RETRIEVAL = 0.5
WAYS = ("yarn", "base", "plain")
T95 = (math.inf, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # by degrees of freedom


def architecture(theta: float) -> Architecture:
    attention = Attention(heads=4, kv_heads=2, head_dim=32)
    blocks = (ShortConv(), attention, ShortConv())
    return Architecture(vocab_size=VOCABULARY, width=128, ffn_width=256, blocks=blocks, rope_theta=theta)


def pretrained(corpus: Corpus, theta: float, seed: int, tokens: int, report: Any = None) -> HybridLM:
    recipe = Recipe(tokens=tokens, batch=16, sequence=ORIGINAL, seed=seed)
    model = HybridLM(architecture(theta), seed=seed)
    mixed = Curriculum(corpus, (), recipe.steps, long_share=0.0, retrieval_share=RETRIEVAL)
    train(model, mixed, recipe, hard_labels, Run() if report is None else Run(report=report))
    return model


def extended(model: HybridLM, corpus: Corpus, way: str, seed: int, tokens: int) -> HybridLM:
    """To 2,048 and then to 8,192, with `tokens` for each."""
    theta = model.architecture.rope_theta
    for length in LENGTHS[1:]:
        given: dict[str, Any] = {"method": way, "original": ORIGINAL}
        if way == "base":  # of the first base, as YaRN is of the first length
            given["theta"] = raised(architecture(theta), length / ORIGINAL)
        stage = Extend(tokens=tokens, sequence=length, seed=seed, retrieval_share=RETRIEVAL, **given)
        stretched = HybridLM(stage.stretched(model.architecture))
        stretched.load_state_dict(model.state_dict())
        train(stretched, stage.corpus(corpus), stage, hard_labels, Run())
        model = stretched
    return model


def judged(model: HybridLM, text: Text, seed: int, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for length in LENGTHS:
        batch = max(1, 8192 // length)
        asked = episodes(text, Task(8, 8), count=count, length=length, seed=seed)
        shares = recall(model, asked, batch=batch)
        bits, buckets = bits_by_position(model, text, length=length, windows=max(4, 16_384 // length), batch=batch)
        found[str(length)] = {
            "recall": shares.recall,
            "by_depth": shares.by_depth,
            "bits_per_byte": bits,
            "by_position": [bucket.model_dump() for bucket in buckets],
        }
    return found


def done(corpus_dir: Path, theta: float, seed: int, tokens: int, more: int, count: int) -> dict[str, dict[str, Any]]:
    """Every way's figures for one base and one seed; in a process of its own."""
    torch.set_num_threads(1)
    corpus = Corpus.open(corpus_dir)
    text = Text.held_out(corpus, 8 * LENGTHS[-1])
    model = pretrained(corpus, theta, seed, tokens)
    found = {"not trained on": judged(model, text, seed, count)}
    yarn = Extend(tokens=1, sequence=LENGTHS[-1], original=ORIGINAL).stretched(model.architecture)
    tables = HybridLM(yarn)
    tables.load_state_dict(model.state_dict())
    found["not trained on, YaRN's tables"] = judged(tables, text, seed, count)
    for way in WAYS:
        found[f"trained on: {way}"] = judged(extended(model, corpus, way, seed, more), text, seed, count)
    return found


def interval(values: list[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = T95[min(len(values) - 1, len(T95) - 1)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ±{half:.3f}"


def table(theta: float, runs: list[dict[str, dict[str, Any]]]) -> None:
    print(
        f"\nRoPE base {theta:,.0f}: recall of 8 needles, in all and by quarter of the context (first is farthest back)"
    )
    print(
        f"{'':32}{'length':>8}{'recall':>16}{'1st':>16}{'2nd':>16}{'3rd':>16}{'4th':>16}{'bits/byte':>16}{'at end':>16}"
    )
    for name in runs[0]:
        for length in map(str, LENGTHS):
            rows = [run[name][length] for run in runs]
            cells = [interval([row["recall"] for row in rows])]
            cells += [interval([row["by_depth"][quarter] for row in rows]) for quarter in range(4)]
            cells += [interval([row["bits_per_byte"] for row in rows])]
            cells += [interval([row["by_position"][-1]["bits_per_byte"] for row in rows])]
            print(f"{name:32}{int(length):>8,}" + "".join(f"{cell:>16}" for cell in cells))


def differences(runs: list[dict[str, dict[str, Any]]]) -> None:
    longest = str(LENGTHS[-1])
    print(f"\nYaRN less the others within a seed, at {LENGTHS[-1]:,} (recall: more is better; bits/byte: less is)")
    for way in WAYS[1:]:
        for figure in ("recall", "bits_per_byte"):
            pairs = [(run["trained on: yarn"][longest], run[f"trained on: {way}"][longest]) for run in runs]
            print(f"  {way:8}{figure:16}{interval([one[figure] - other[figure] for one, other in pairs]):>18}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--thetas", default="1e4,1e6", help="RoPE bases")
    parser.add_argument("--tokens", type=int, default=1_500_000, help="of the training at 256")
    parser.add_argument("--more", type=int, default=200_000, help="of the training at each longer length")
    parser.add_argument("--episodes", type=int, default=16, help="windows of 8 needles behind each recall")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write everything here")
    given = parser.parse_args()
    begun = time.monotonic()
    thetas = [float(theta) for theta in given.thetas.split(",")]
    results: dict[float, list[dict[str, dict[str, Any]]]] = {theta: [] for theta in thetas}
    with tempfile.TemporaryDirectory() as scratch:
        corpus = prepare([Source(format="stdlib")], Path(scratch) / "corpus", vocab_size=VOCABULARY)
        with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
            jobs = {
                pool.submit(done, corpus.directory, theta, seed, given.tokens, given.more, given.episodes): theta
                for seed in range(given.seeds)
                for theta in thetas
            }
            for count, future in enumerate(as_completed(jobs), start=1):
                print(
                    f"\r{count} of {len(jobs)}, {time.monotonic() - begun:.0f} s ", end="", file=sys.stderr, flush=True
                )
                future.result()
            print(file=sys.stderr)
        for future, theta in jobs.items():
            results[theta].append(future.result())
    shape = architecture(thetas[0])
    print(
        f"{shape.parameters:,} parameters; {given.tokens:,} tokens at {ORIGINAL}, then {given.more:,} at each of "
        f"{LENGTHS[1]:,} and {LENGTHS[2]:,}; {given.seeds} seeds"
    )
    for theta, runs in results.items():
        table(theta, runs)
        differences(runs)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{os.cpu_count()} cores, load {load}, torch {torch.__version__}")
    print(f"{time.monotonic() - begun:.0f} s in {given.processes} processes")
    if given.json:
        arguments = {name: str(value) for name, value in vars(given).items()}
        plain = {str(theta): runs for theta, runs in results.items()}
        given.json.write_text(json.dumps({"arguments": arguments, "results": plain}, indent=2))


if __name__ == "__main__":
    main()
