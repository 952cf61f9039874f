"""4,096 -> 32,768 -> 131,072 positions, the lengths themselves: `make bench-context-real`.

A small hybrid model takes one optimiser step and one evaluation at each length, each in a process of its own whose peak
is read beside what `trainer.memory` said before. The context is stretched as the stage `extend` does it: by 8 and then
by 32, both relative to 4,096, each from the checkpoint before. What is shown is that it runs and what it takes; a step
teaches nothing. The text is the standard library's source, cut by a small tokenizer: most ids are there and unused.
Every window is one document, so attention sees the whole of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trainer import memory
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint, seal
from trainer.data import Corpus, prepare
from trainer.engine import Run, hard_labels, train
from trainer.evaluate import Task, Text, bits_by_position, episodes, recall
from trainer.extend import Extend
from trainer.model import HybridLM
from trainer.sources import Source

ORIGINAL, TEXT_VOCABULARY = 4096, 4096
LENGTHS = (ORIGINAL, 32_768, 131_072)


def architecture(width: int, heads: int, blocks: str, vocabulary: int) -> Architecture:
    kinds = {"c": ShortConv(), "a": Attention(heads=heads, kv_heads=max(1, heads // 2), head_dim=32)}
    chosen = tuple(kinds[kind] for kind in blocks)
    return Architecture(vocab_size=vocabulary, width=width, ffn_width=4 * width, blocks=chosen)


def status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def warmed() -> int:
    """Bytes of this process, its corpus read, when torch has done everything once."""
    small = HybridLM(Architecture(vocab_size=64, width=32, ffn_width=32, blocks=(ShortConv(),)))
    value = small(torch.zeros(1, 64, dtype=torch.int64)).sum()
    value.backward()
    torch.optim.AdamW(small.parameters(), fused=True).step()
    return status("VmRSS")


def told(what: str, length: int, predicted: int, base: int, seconds: float, more: dict[str, Any]) -> None:
    measured = status("VmHWM") - base
    row = {"what": what, "length": length, "predicted": predicted, "measured": measured, "seconds": seconds, **more}
    print(json.dumps(row), flush=True)


def step(length: int, checkpoint: Path, home: Path, threads: int) -> None:
    """One optimiser step; prints a row and where the result lies."""
    torch.set_num_threads(threads)
    memory.return_large_blocks()
    corpus = Corpus.open(home / "corpus")
    corpus.batch(0, size=1, sequence=length, seed=0)
    base, model = warmed(), Checkpoint(checkpoint).model()
    found = model.architecture
    if length > ORIGINAL:
        stage = Extend(tokens=length, sequence=length, original=ORIGINAL, retrieval_share=1)
        found = stage.stretched(found)
    else:
        stage = Extend(tokens=length, sequence=length, method="plain", retrieval_share=1)
    predicted = memory.of_step(found, batch=1, sequence=length)
    memory.require(predicted, f"a step of {length} tokens")
    stretched = HybridLM(found)
    stretched.load_state_dict(model.state_dict())
    losses: list[float] = []
    run = Run(report=lambda done, total, metrics: losses.append(metrics["loss"]))
    train(stretched, stage.corpus(corpus), stage, hard_labels, run)
    sealed = seal(stretched, home / "sealed", corpus.tokenizer)
    factor = None if found.yarn is None else found.yarn.factor
    more = {"loss": losses[0], "yarn_factor": factor, "checkpoint": str(sealed.directory)}
    told("optimiser step", length, predicted, base, run.seconds, more)


def evaluation(length: int, checkpoint: Path, home: Path, threads: int) -> None:
    """Eight needles in one window, and bits per byte by position in another."""
    torch.set_num_threads(threads)
    memory.return_large_blocks()
    text = Text.held_out(Corpus.open(home / "corpus"), length + 1)
    base, model = warmed(), Checkpoint(checkpoint).model()
    predicted = memory.of_evaluation(model.architecture, batch=1, sequence=length)
    begun = time.monotonic()
    text = Text(
        text.ids,
        torch.nn.functional.pad(text.token_bytes, (0, model.architecture.vocab_size - TEXT_VOCABULARY)),
        text.end_of_text,
    )
    asked = episodes(text, Task(8, 8), count=1, length=length, seed=0)
    shares = recall(model, asked)
    bits, buckets = bits_by_position(model, text, length=length, windows=1)
    more = {"recall": shares.recall, "bits_per_byte": bits, "last_bucket": buckets[-1].bits_per_byte}
    told("evaluation", length, predicted, base, time.monotonic() - begun, more)


def child(what: str, length: int, checkpoint: Path, home: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", what, "--length", str(length), "--checkpoint", str(checkpoint)]
    command += ["--home", str(home), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = ", ".join(f"{name} {row[name]:.3f}" for name in ("loss", "recall", "bits_per_byte") if name in row)
    sizes = "".join(f"{row[name] / 2**30:>12.2f} GiB" for name in ("predicted", "measured"))
    ratio = row["predicted"] / row["measured"]
    print(f"{row['what']:16}{length:>9,}{sizes}{ratio:>8.2f}{row['seconds']:>9.0f} s   {shown}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=1, help="of 32 each, half as many for keys")
    parser.add_argument("--blocks", default="cca", help="c: convolution, a: attention")
    parser.add_argument("--vocabulary", type=int, default=16_384, help=f"at least {TEXT_VOCABULARY}")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="of those that are to be run, in order")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--home", type=Path, help="keep corpus and checkpoints here")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--child", choices=["step", "evaluation"], help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        {"step": step, "evaluation": evaluation}[given.child](given.length, given.checkpoint, given.home, given.threads)
        return
    with tempfile.TemporaryDirectory() as scratch:
        home = given.home or Path(scratch)
        corpus = prepare([Source(format="stdlib")], home / "corpus", vocab_size=TEXT_VOCABULARY)
        shape = architecture(given.width, given.heads, given.blocks, given.vocabulary)
        checkpoint = seal(HybridLM(shape), home / "sealed", corpus.tokenizer).directory
        there = memory.of_machine() / 2**30
        print(
            f"{shape.parameters:,} parameters, blocks {given.blocks}, vocabulary {shape.vocab_size:,}; {there:.1f} GiB"
        )
        print(f"of memory here; taken beside interpreter and corpus, predicted to {memory.TOLERANCE:.0%}")
        print(f"{'':16}{'length':>9}{'predicted':>16}{'measured':>16}{'ratio':>8}{'time':>11}", flush=True)
        rows = []
        for length in map(int, given.lengths.split(",")):
            row = child("step", length, checkpoint, home, given.threads)
            checkpoint = Path(row["checkpoint"])
            rows += [row, child("evaluation", length, checkpoint, home, given.threads)]
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{given.threads} threads of {os.cpu_count()} cores, load {load}, torch {torch.__version__}")
        if given.json:
            given.json.write_text(json.dumps({"architecture": shape.model_dump(mode="json"), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
