"""What a teacher is worth: distillation beside hard labels at equal tokens, on real text: `make bench-distil`.

A teacher twice as wide is trained once, on more tokens. Then a student is trained from nothing in every way with the
same tokens of the same text in the same order, over several seeds (of its weights and of that order), and judged by the
bits per byte of held-out text. Differences are taken within a seed; one whose 95 % interval (Student's t) holds zero is
said not to be there. Time is told beside them, for a teacher that is asked costs more than it is worth at some point;
one row trains on hard labels for about as long as distillation takes.

Then the loss alone, at a large vocabulary: seconds and memory by chunks and with whole logits.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from intervals import effect, interval, machine
from torch import Tensor

from trainer import pipeline
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.chunked import mean_loss
from trainer.data import Corpus, prepare
from trainer.distil import TopK, distilled
from trainer.pretrain import Pretrain, Teacher
from trainer.sources import Source
from trainer.teachers.cache import TeacherCache

STUDENT = Architecture(
    vocab_size=1024, width=128, ffn_width=256, blocks=(ShortConv(), Attention(heads=4, kv_heads=2, head_dim=32)) * 2
)
BATCH, SEQUENCE = 8, 128


class Way(NamedTuple):
    """A row of the table: a pretraining stage's options."""

    name: str
    options: dict[str, Any]
    more: float = 1.0  # of the tokens


HARD = "hard labels"
WAYS = [
    Way(HARD, {"distillation": 0.0}),
    Way("hard labels, 1.5 times the tokens", {"distillation": 0.0}, more=1.5),
    Way("top 32", {}),
    Way("top 32, cached", {"cached": True}),
    Way("top 32, share 0.9", {"distillation": 0.9}),
    Way("top 8", {"top_k": 8}),
    Way("whole vocabulary, forward KL", {"beta": 0.0, "temperature": 1.0}),
    Way("whole vocabulary, reverse KL", {"beta": 1.0, "temperature": 1.0}),
]
EFFECTS = [  # (what, the way with it, the way without it)
    ("distillation, top 32", "top 32", HARD),
    ("distillation, forward KL", "whole vocabulary, forward KL", HARD),
    ("distillation for as long", "top 32", "hard labels, 1.5 times the tokens"),
    ("top 32 for the whole vocabulary", "top 32", "whole vocabulary, forward KL"),
    ("reverse for forward KL", "whole vocabulary, reverse KL", "whole vocabulary, forward KL"),
    ("share 0.9 for 0.5", "top 32, share 0.9", "top 32"),
    ("top 8 for top 32", "top 8", "top 32"),
    ("the cache's rounding", "top 32, cached", "top 32"),
]
SWEEP = [Way(HARD, {"distillation": 0.0})] + [
    Way(f"share {share}, temperature {heat}", {"distillation": share, "temperature": heat})
    for share in (0.3, 0.5, 0.8, 1.0)
    for heat in (1.0, 2.0, 4.0)
]


def train_teacher(corpus: Path, home: Path, tokens: int, seed: int) -> tuple[Path, dict[str, float]]:
    """(its checkpoint, its figures); kept, and carried on if it was stopped."""

    def report(index: int, done: int, total: int, metrics: dict[str, float]) -> None:
        if index == 0 and "loss" in metrics:
            print(f"\rteacher: {done:,} of {total:,} tokens, loss {metrics['loss']:.3f} ", end="", file=sys.stderr)

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    teacher = Teacher(tokens=tokens, widen=2, batch=BATCH, sequence=SEQUENCE, seed=seed)
    model = Pretrain(tokens=BATCH * SEQUENCE, batch=BATCH, sequence=SEQUENCE, distillation=0.0)  # a run ends with one
    _, (outcome, _) = pipeline.run([teacher, model], STUDENT, corpus, home / "teacher", report=report)
    print(f"in {outcome.seconds:.0f} s", file=sys.stderr)
    return home / "teacher" / outcome.checkpoint, {**outcome.after, "parameters": outcome.parameters}


def done(way: Way, seed: int, tokens: int, corpus: Path, teacher: Path, home: Path) -> dict[str, float]:
    """One row's figures for one seed; in a process of its own."""
    torch.set_num_threads(1)
    begun, first_step = time.monotonic(), 0.0

    def report(index: int, done: int, total: int, metrics: dict[str, float]) -> None:
        nonlocal first_step
        if "loss" in metrics and not first_step:
            first_step = time.monotonic() - begun

    stage = Pretrain.model_validate(
        {"tokens": round(tokens * way.more), "batch": BATCH, "sequence": SEQUENCE, "seed": seed, "teacher": teacher}
        | way.options
    )
    place = home / f"{way.name}-{seed}-{tokens}".replace(" ", "-").replace(",", "")
    _, (outcome,) = pipeline.run([stage], STUDENT, corpus, place, report=report)
    found = {"bits_per_byte": outcome.after["bits_per_byte"], "seconds": outcome.seconds, "before": first_step}
    for cache in (place / "taught").glob("*"):
        found["bytes_per_token"] = TeacherCache.open(cache).bytes_per_token
    return found


def loss_alone(chunked: bool, vocabulary: int, positions: int, width: int, device: str) -> tuple[float, float]:
    """(seconds, bytes at the peak) of the loss and its gradients; in a process of its own."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator).to(device).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=generator) / width**0.5).to(device).requires_grad_()
    targets = torch.randint(0, vocabulary, (positions,), generator=generator).to(device)
    rows = torch.randint(0, vocabulary, (positions, 32), generator=generator).to(device)
    falling = -torch.rand(positions, 32, generator=generator).cumsum(-1).to(device)
    known = TopK.with_odds(rows, falling, torch.full((positions,), 2.0, device=device))

    def judged(logits: Tensor, targets: Tensor, *known: Tensor) -> Tensor:
        return distilled(logits, targets, TopK(*known), share=0.5, temperature=2.0)

    def step() -> None:
        if chunked:
            mean_loss(hidden, weight, (targets, *known), judged).backward()
        else:
            judged(F.linear(hidden, weight), targets, *known).backward()
        hidden.grad = weight.grad = None
        if device == "cuda":
            torch.cuda.synchronize()

    def peak() -> float:
        if device == "cuda":
            return float(torch.cuda.max_memory_allocated())
        told = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
        return float(told) * 1024

    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: loading torch has set one
    before = float(torch.cuda.memory_allocated()) if device == "cuda" else peak()
    times = []
    for _ in range(2):
        begun = time.monotonic()
        step()
        times.append(time.monotonic() - begun)
    return min(times), peak() - before


def costs(device: str, vocabulary: int, positions: int, width: int) -> dict[str, Any]:
    print(f"\nThe loss alone on {device}: {positions:,} positions, {width} wide, {vocabulary:,} tokens, top 32")
    found = {}
    for chunked in (False, True):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            seconds, peak = pool.submit(loss_alone, chunked, vocabulary, positions, width, device).result()
        name = "by chunks" if chunked else "whole logits"
        print(f"  {name:14}{seconds:8.3f} s {peak / 1e6:10,.0f} MB")
        found[name] = {"seconds": seconds, "bytes": peak}
    return found


def table(results: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{'':38}{'bits/byte':>18}{'s of training':>16}{'s before':>10}{'bytes/token':>13}")
    for name, rows in results.items():
        mean, half = interval([row["bits_per_byte"] for row in rows])
        seconds, before = (statistics.fmean(row[each] for row in rows) for each in ("seconds", "before"))
        stored = [row["bytes_per_token"] for row in rows if "bytes_per_token" in row]
        tail = f"{statistics.fmean(stored):13.1f}" if stored else ""
        print(f"{name:38}{mean:10.4f} ±{half:6.4f}{seconds:16.0f}{before:10.1f}{tail}")


def effects(results: dict[str, list[dict[str, float]]], pairs: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    print("\nEffects, differences of bits/byte within a seed (lower is better)")
    told = []
    for what, with_it, without in pairs:
        both = zip(results[with_it], results[without], strict=True)
        found = effect((one["bits_per_byte"], other["bits_per_byte"]) for one, other in both)
        print(f"{what:38}{found['mean']:+10.4f} ±{found['half']:6.4f} {'yes' if found['there'] else ' no'}")
        told.append({"effect": what, **found})
    return told


def read_text(given: argparse.Namespace, home: Path) -> Corpus:
    if given.corpus:
        return Corpus.open(given.corpus)
    formats = {".jsonl": "jsonl", ".parquet": "parquet"}
    sources = [Source.model_validate({"format": formats.get(path.suffix, "text"), "path": path}) for path in given.text]
    name = "-".join([path.stem for path in given.text] or ["stdlib"])
    return prepare(sources or [Source(format="stdlib")], home / f"corpus-{name}", vocab_size=STUDENT.vocab_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=120_000, help="of every student")
    parser.add_argument("--teacher-tokens", type=int, default=500_000)
    parser.add_argument("--corpus", type=Path, help="a prepared corpus of 1,024 ids; the standard library without one")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="text, .jsonl or .parquet, prepared here")
    parser.add_argument("--sweep", action="store_true", help="share and temperature, in the place of the ways")
    parser.add_argument("--only", nargs="*", help="names of ways to run; hard labels always")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", help="of the loss alone: cpu or cuda")
    parser.add_argument(
        "--loss", type=int, nargs=3, default=(65_536, 2_048, 256), metavar=("VOCAB", "POSITIONS", "WIDTH")
    )
    parser.add_argument("--home", type=Path, help="keep corpus, teacher and students here, and use what is there")
    parser.add_argument("--out", type=Path, help="write everything here as JSON")
    given = parser.parse_args()
    begun = time.monotonic()
    ways = [way for way in (SWEEP if given.sweep else WAYS) if not given.only or way.name in {HARD, *given.only}]
    pairs = [(f"{way.name}", way.name, HARD) for way in ways[1:]] if given.sweep else EFFECTS
    pairs = [pair for pair in pairs if {pair[1], pair[2]} <= {way.name for way in ways}]
    with tempfile.TemporaryDirectory() as scratch:
        home = given.home or Path(scratch)
        corpus = read_text(given, home)
        teacher, known = train_teacher(corpus.directory, home, given.teacher_tokens, seed=1_000)
        results: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
        with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
            jobs = {
                pool.submit(done, way, seed, given.tokens, corpus.directory, teacher, home): way
                for seed in range(1, given.seeds + 1)
                for way in ways
            }
            for count, future in enumerate(as_completed(jobs), start=1):
                print(f"\r{count} of {len(jobs)}, {time.monotonic() - begun:.0f} s ", end="", file=sys.stderr)
                future.result()
            print(file=sys.stderr)
        for future, way in jobs.items():
            results[way.name].append(future.result())
    print(
        f"Students of {STUDENT.parameters:,} parameters and {given.tokens:,} tokens, a teacher of "
        f"{known['parameters']:,.0f} and {given.teacher_tokens:,} tokens ({known['bits_per_byte']:.4f} bits/byte), on "
        f"{', '.join(corpus.sources)}; mean of {given.seeds} seeds ± half a 95 % interval"
    )
    table(results)
    told = effects(results, pairs)
    alone = {} if given.sweep else costs(given.device, *given.loss)
    print(f"\n{machine()}")
    print(f"{time.monotonic() - begun:.0f} s in {given.processes} processes")
    if given.out:
        arguments = {name: str(value) for name, value in vars(given).items()}
        found = {"arguments": arguments, "teacher": known, "results": results, "effects": told, "loss": alone}
        given.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
