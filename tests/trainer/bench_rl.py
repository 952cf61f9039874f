"""What reinforcement learning does, by level, and whether a curriculum helps: `make bench-rl`.

A small model is trained on lines of arithmetic, most of which are wrong: they are off by one (--wrong says how many).
So it has learnt the right answer and the wrong one, and which of them to say cannot be known from the text. From it the
stage `rl` goes on with verified rewards, problems by the curriculum or of all levels alike, at equal answers, over
several seeds. Judged on held-out problems, which are in neither training: greedy answers, by level.

Differences are taken within a seed; one whose 95 % interval (Student's t) holds zero is said not to be there.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from intervals import effect, interval, machine

from trainer import pipeline
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint
from trainer.data import Corpus, prepare
from trainer.pretrain import Pretrain
from trainer.ranks import Ranks
from trainer.rewards import Arithmetic, drawn
from trainer.rl.options import CurriculumOptions
from trainer.rl.stage import Rl
from trainer.sources import Source

LEVELS = ("add-1", "sum-1", "sum-2", "terms-3", "steps-4")
TASKS = Arithmetic(levels=LEVELS)
ARCHITECTURE = Architecture(
    vocab_size=257, width=64, ffn_width=128, blocks=(ShortConv(), Attention(heads=4, kv_heads=2, head_dim=16)) * 2
)
BATCH, SEQUENCE, ANSWER, SAMPLES, LINES = 128, 40, 8, 8, 60_000
WAYS = ("informative", "uniform")
FIGURES = ("success", *(f"success/{level}" for level in LEVELS))


def written(file: Path, wrong: float) -> Path:
    """Lines of every level, a document each; a share of them off by one."""
    dice = random.Random(0)
    with file.open("w") as lines:
        for number in range(LINES):
            problem = drawn(TASKS, LEVELS[number % len(LEVELS)], number, held_out=False)
            answer = int(problem.answer) + (dice.random() < wrong)
            lines.write(json.dumps({"text": f"{problem.prompt}{answer}\n"}) + "\n")
    return file


def trained(way: str, seed: int, steps: int, rate: float, corpus: Path, base: Path, home: Path, device: str) -> Any:
    """(figures before, figures after, seconds) of one way and seed; in a process of its own."""
    torch.set_num_threads(1)
    stage = Rl(
        tasks=TASKS,
        style="plain",
        curriculum=CurriculumOptions(sampling=way),
        tokens=steps * BATCH * SEQUENCE,
        batch=BATCH,
        sequence=SEQUENCE,
        answer=ANSWER,
        samples=SAMPLES,
        learning_rate=rate,
        held_out=200,
        seed=seed,
    )
    out = home / f"{way}-{seed}"
    ranks = Ranks(device=torch.device(device))
    _, outcomes = pipeline.run([stage], ARCHITECTURE, corpus, out, start=Checkpoint(base), ranks=ranks)
    return outcomes[-1].before, outcomes[-1].after, outcomes[-1].seconds


def base_of(corpus: Corpus, home: Path, tokens: int) -> Path:
    """The model that all begin with."""

    def report(index: int, done: int, total: int, metrics: dict[str, float]) -> None:
        if metrics:
            print(f"\rbase model: {done:,} of {total:,} tokens, loss {metrics['loss']:.3f} ", end="", file=sys.stderr)

    stage = Pretrain(tokens=tokens, batch=32, sequence=64, seed=0)
    found, outcomes = pipeline.run([stage], ARCHITECTURE, corpus.directory, home / "base", report=report)
    print(f"in {outcomes[-1].seconds:.0f} s", file=sys.stderr)
    return found.directory


def row(what: str, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """Print and return the differences, later less earlier, by figure."""
    entry: dict[str, Any] = {"effect": what}
    cells = []
    for figure in FIGURES:
        found = entry[figure] = effect((100 * after[figure], 100 * before[figure]) for before, after in pairs)
        cells.append(f"{found['mean']:+6.1f} ±{found['half']:5.1f} {'yes' if found['there'] else ' no'}")
    print(f"{what:24}" + "".join(f"{cell:>19}" for cell in cells))
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80, help=f"of {BATCH} answers, {SAMPLES} a problem")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of the stage rl")
    parser.add_argument("--base-tokens", type=int, default=1_200_000)
    parser.add_argument("--wrong", type=float, default=0.6, help="share of the lines that are off by one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="write everything here as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)  # of so small a model
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        corpus = prepare([Source.at(written(home / "lines.jsonl", given.wrong))], home / "corpus", vocab_size=257)
        base = base_of(corpus, home, given.base_tokens)
        found: dict[tuple[str, int], Any] = {}
        with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
            known = (given.steps, given.rate, corpus.directory, base, home, given.device)
            jobs = {
                pool.submit(trained, way, seed, *known): (way, seed)
                for seed in range(1, given.seeds + 1)
                for way in WAYS
            }
            for count, future in enumerate(as_completed(jobs), start=1):
                print(f"\r{count} of {len(jobs)}, {time.monotonic() - begun:.0f} s ", end="", file=sys.stderr)
                found[jobs[future]] = future.result()
            print(file=sys.stderr)
    results = {way: [found[way, seed] for seed in range(1, given.seeds + 1)] for way in WAYS}
    print(
        f"{ARCHITECTURE.parameters:,} parameters, {given.base_tokens:,} tokens of lines of which {given.wrong:.0%} are "
        f"off by one, then {given.steps} steps of {BATCH} answers; {given.seeds} seeds ± half a 95 % interval"
    )
    print(f"\n{'greedy success, percent':24}" + "".join(f"{f.removeprefix('success/'):>19}" for f in FIGURES))
    for name, side, way in (("before", 0, WAYS[0]), *((f"after, {way}", 1, way) for way in WAYS)):
        cells = [interval([100 * each[side][figure] for each in results[way]]) for figure in FIGURES]
        print(f"{name:24}" + "".join(f"{mean:12.1f} ±{half:5.1f}" for mean, half in cells))
    print("\nEffects, percentage points within a seed")
    effects = [row(f"RL, {way}", [(before, after) for before, after, _ in results[way]]) for way in WAYS]
    both = zip(results["uniform"], results["informative"], strict=True)
    effects.append(row("curriculum - uniform", [(one[1], other[1]) for one, other in both]))
    seconds = statistics.fmean(each[2] for rows in results.values() for each in rows)
    print(f"\n{machine()}")
    print(f"{seconds:.0f} s a training, {time.monotonic() - begun:.0f} s in all, {given.processes} processes")
    if given.out:
        arguments = {name: str(value) for name, value in vars(given).items()}
        given.out.write_text(json.dumps({"arguments": arguments, "results": results, "effects": effects}, indent=2))


if __name__ == "__main__":
    main()
