"""Recall and bits per byte by position, before and after a context is stretched: `make bench-context`.

The factors of 4k -> 32k -> 128k at lengths that a CPU can do: a small hybrid model is trained at 256 tokens, then
extended to 2,048 (by 8) and to 8,192 (by 32, relative to 256), with equal tokens, in three ways: YaRN, a raised RoPE
base, and plain continued training. Beside them stand the models that were not trained on: as they were, and under
YaRN's tables.

The first training begins with retrieval alone in windows of 64. Then, and in all that follows, half of the windows are
haystacks: the standard library's source with up to 16 needles, a key and a value of one token each from 16 kept for
each, asked for at the end (as MQAR, arXiv 2312.04927); only answers count there. A guess is right 1 time in 16. A seed
whose model has not learnt to retrieve by then is counted, and left out.

Evaluated on held-out text, with other needles. Each RoPE base is a table of its own: at 1,000,000, LFM2's, plain
training may do; at 10,000 it has more to learn. Intervals are 95 % (Student's t) over seeds of weights, order and
needles.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from intervals import interval, machine

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.curriculum import Curriculum
from trainer.data import Corpus, prepare
from trainer.engine import Run, hard_labels, train
from trainer.evaluate import Needle, Task, Text, bits_by_position, episodes, recall
from trainer.extend import Extend, raised
from trainer.model import HybridLM
from trainer.recipe import Recipe
from trainer.sources import Source

ORIGINAL, LENGTHS = 256, (256, 2048, 8192)
TEXT, KEYS = 512, 16  # ids: of the text, then keys, then values
NEEDLE = Needle(1, 1, range(TEXT, TEXT + KEYS), range(TEXT + KEYS, TEXT + 2 * KEYS))
RATE, STEP = 3e-3, {ORIGINAL: 2048, 2048: 4096, 8192: 8192}  # tokens; at four times the rate it does not learn
WAYS = ("yarn", "base", "plain")


def architecture(theta: float) -> Architecture:
    blocks = (ShortConv(kernel=4), Attention(heads=2, kv_heads=1, head_dim=32), ShortConv(kernel=4))
    return Architecture(vocab_size=TEXT + 2 * KEYS, width=96, ffn_width=192, blocks=blocks, rope_theta=theta)


def mixed(corpus: Corpus, recipe: Recipe, retrieval: float = 0.5) -> Curriculum:
    return Curriculum(corpus, (), recipe.steps, long_share=0.0, retrieval_share=retrieval, needle=NEEDLE)


def pretrained(corpus: Corpus, theta: float, seed: int, tokens: int) -> HybridLM:
    model = HybridLM(architecture(theta), seed=seed)
    given: dict[str, Any] = {"learning_rate": RATE, "warmup": 0.02, "seed": seed}
    short = Recipe(tokens=tokens // 3, batch=16, sequence=64, decay=0, **given)
    train(model, mixed(corpus, short, retrieval=1), short, hard_labels, Run())
    whole = Recipe(tokens=tokens - tokens // 3, batch=STEP[ORIGINAL] // ORIGINAL, sequence=ORIGINAL, **given)
    train(model, mixed(corpus, whole), whole, hard_labels, Run())
    return model


def stretched(start: Architecture, way: str, length: int, seed: int, tokens: int) -> tuple[Extend, Architecture]:
    given: dict[str, Any] = {"method": way, "original": ORIGINAL, "learning_rate": RATE, "seed": seed}
    if way == "base":  # of the first base, as YaRN is of the first length
        given["theta"] = raised(start, length / ORIGINAL)
    stage = Extend(tokens=tokens, batch=STEP[length] // length, sequence=length, checkpoint_activations=False, **given)
    return stage, stage.stretched(start)


def extended(model: HybridLM, corpus: Corpus, way: str, seed: int, tokens: int) -> HybridLM:
    """To 2,048 and then to 8,192, with `tokens` for each."""
    start = model.architecture
    for length in LENGTHS[1:]:
        stage, architecture = stretched(start, way, length, seed, tokens)
        longer = HybridLM(architecture)
        longer.load_state_dict(model.state_dict())
        train(longer, mixed(corpus, stage), stage, hard_labels, Run())
        model = longer
    return model


def judged(model: HybridLM, text: Text, seed: int, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for length in LENGTHS:
        batch = max(1, 8192 // length)
        asked = episodes(text, Task(8, 8, NEEDLE), count=count, length=length, seed=seed)
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
    begun, found = time.monotonic(), dict[str, dict[str, Any]]()

    def judge(name: str, made: HybridLM) -> None:
        found[name] = judged(made, text, seed, count)
        shares = ", ".join(f"{found[name][str(length)]['recall']:.2f} at {length:,}" for length in LENGTHS)
        told = f"RoPE base {theta:,.0f}, seed {seed}: {name}: recall {shares}; {time.monotonic() - begun:.0f} s"
        print(told, file=sys.stderr, flush=True)

    model = pretrained(corpus, theta, seed, tokens)
    judge("not trained on", model)
    for way in WAYS[:-1]:
        tables = HybridLM(stretched(model.architecture, way, LENGTHS[-1], seed, 1)[1])
        tables.load_state_dict(model.state_dict())
        judge(f"not trained on, tables: {way}", tables)
    for way in WAYS:
        judge(f"trained on: {way}", extended(model, corpus, way, seed, more))
    return found


LEARNT = 0.9
"""Recall at the first length of a model that retrieves; one that does not has nothing to lose at longer ones."""


def told(values: list[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.3f}" if len(values) < 2 else f"{mean:.3f} ±{half:.3f}"


def table(theta: float, runs: list[dict[str, dict[str, Any]]]) -> None:
    print(
        f"\nRoPE base {theta:,.0f}: recall of 8 needles, in all and by quarter of the context (first is farthest back)"
    )
    print(
        f"{'':34}{'length':>8}{'recall':>16}{'1st':>16}{'2nd':>16}{'3rd':>16}{'4th':>16}{'bits/byte':>16}{'at end':>16}"
    )
    for name in runs[0]:
        for length in map(str, LENGTHS):
            rows = [run[name][length] for run in runs]
            cells = [told([row["recall"] for row in rows])]
            cells += [told([row["by_depth"][quarter] for row in rows]) for quarter in range(4)]
            cells += [told([row["bits_per_byte"] for row in rows])]
            cells += [told([row["by_position"][-1]["bits_per_byte"] for row in rows])]
            print(f"{name:34}{int(length):>8,}" + "".join(f"{cell:>16}" for cell in cells))


def positions(runs: list[dict[str, dict[str, Any]]]) -> None:
    longest = str(LENGTHS[-1])
    edges = [bucket["end"] for bucket in runs[0]["not trained on"][longest]["by_position"]]
    print(f"\nBits per byte by position at {LENGTHS[-1]:,}, up to position")
    print(f"{'':34}" + "".join(f"{edge:>16,}" for edge in edges))
    for name in runs[0]:
        columns = zip(*([b["bits_per_byte"] for b in run[name][longest]["by_position"]] for run in runs), strict=True)
        print(f"{name:34}" + "".join(f"{told(list(column)):>16}" for column in columns))


def differences(runs: list[dict[str, dict[str, Any]]]) -> None:
    longest = str(LENGTHS[-1])
    print(f"\nYaRN less the others within a seed, at {LENGTHS[-1]:,} (recall: more is better; bits/byte: less is)")
    for way in WAYS[1:]:
        for figure in ("recall", "bits_per_byte"):
            pairs = [(run["trained on: yarn"][longest], run[f"trained on: {way}"][longest]) for run in runs]
            print(f"  {way:8}{figure:16}{told([one[figure] - other[figure] for one, other in pairs]):>18}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--thetas", default="1e4,1e6", help="RoPE bases")
    parser.add_argument("--tokens", type=int, default=1_500_000, help="of the training at 256")
    parser.add_argument("--more", type=int, default=196_608, help="of the training at each longer length")
    parser.add_argument("--episodes", type=int, default=16, help="windows of 8 needles behind each recall")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write everything here")
    given = parser.parse_args()
    begun = time.monotonic()
    thetas = [float(theta) for theta in given.thetas.split(",")]
    results: dict[float, list[dict[str, dict[str, Any]]]] = {theta: [] for theta in thetas}
    with tempfile.TemporaryDirectory() as scratch:
        corpus = prepare([Source(format="stdlib")], Path(scratch) / "corpus", vocab_size=TEXT)
        with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
            jobs = {
                pool.submit(done, corpus.directory, theta, seed, given.tokens, given.more, given.episodes): theta
                for seed in range(given.seeds)
                for theta in thetas
            }
            for future in as_completed(jobs):
                future.result()
        for future, theta in jobs.items():
            results[theta].append(future.result())
    shape = architecture(thetas[0])
    print(
        f"{shape.parameters:,} parameters; {given.tokens:,} tokens at {ORIGINAL}, then {given.more:,} at each of "
        f"{LENGTHS[1]:,} and {LENGTHS[2]:,}; {given.seeds} seeds"
    )
    for theta, runs in results.items():
        learnt = [run for run in runs if run["not trained on"][str(ORIGINAL)]["recall"] >= LEARNT]
        print(f"\nRoPE base {theta:,.0f}: {len(learnt)} of {len(runs)} models learnt to retrieve at {ORIGINAL}")
        if learnt:
            table(theta, learnt)
            positions(learnt)
            differences(learnt)
    print(f"\n{machine()}")
    print(f"{time.monotonic() - begun:.0f} s in {given.processes} processes")
    if given.json:
        arguments = {name: str(value) for name, value in vars(given).items()}
        plain = {str(theta): runs for theta, runs in results.items()}
        given.json.write_text(json.dumps({"arguments": arguments, "results": plain}, indent=2))


if __name__ == "__main__":
    main()
