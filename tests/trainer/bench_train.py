"""Tokens/s of a training step (forward, backward, clipping, AdamW) beside transformers' Lfm2ForCausalLM.

Both start from the same weights, read the same windows and take the same optimiser; ways alternate within a round, and
a ratio is the median over rounds. "packed" has three documents a window, which transformers' model cannot keep apart.
On a CPU the ratio of processor seconds is given too: it holds on a busy machine, the wall clock's does not.

On a GPU, in bfloat16, one card:

    bench_train.py --device cuda --shapes 350M --sequence 4096 --batch 8 --precision bfloat16 --compile
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import Lfm2ForCausalLM

from trainer.architecture import LFM2_350M, Architecture, Attention, ShortConv
from trainer.data import Batch
from trainer.engine import hard_labels
from trainer.interop import save_folder
from trainer.metrics import memory_bytes, peak_flops, training_flops
from trainer.model import HybridLM
from trainer.optimisers import BETAS, make_optimiser
from trainer.recipe import Recipe
from trainer.step import moved, prepared, take_step


class Shape(NamedTuple):
    """A model and what it reads a step where nothing else is asked for."""

    architecture: Architecture
    batch: int
    sequence: int


def _shape(vocab: int, width: int, ffn: int, heads: int, kv: int, depth: int) -> Architecture:
    attention = Attention(heads=heads, kv_heads=kv, head_dim=width // heads)
    blocks = tuple(attention if index % 3 == 2 else ShortConv() for index in range(depth))
    return Architecture(vocab_size=vocab, width=width, ffn_width=ffn, blocks=blocks)


SHAPES = {
    "demo": Shape(_shape(2_048, 192, 512, 6, 2, 6), 8, 128),
    "50M": Shape(_shape(16_384, 512, 1_536, 8, 4, 12), 4, 256),
    "350M": Shape(LFM2_350M, 1, 512),
}


def theirs(model: Lfm2ForCausalLM, batch: Batch, recipe: Recipe) -> Callable[[], None]:
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-6, betas=BETAS, fused=True)
    half = recipe.precision == "bfloat16"

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=half):
            loss = model(input_ids=batch.inputs, labels=batch.inputs, shift_labels=batch.targets).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        float(loss), float(norm)

    return step


def ours(model: HybridLM, batch: Batch, recipe: Recipe) -> Callable[[], None]:
    optimiser = make_optimiser(model, recipe)

    def step() -> None:
        take_step(model, batch, recipe, hard_labels, optimiser, 0, lambda _: True)

    return step


def measured(name: str, threads: int, arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    shape, device = SHAPES[name], torch.device(arguments.device)
    size, sequence = arguments.batch or shape.batch, arguments.sequence or shape.sequence
    torch.set_num_threads(threads)
    recipe = Recipe(
        tokens=10**9,
        batch=size,
        sequence=sequence,
        learning_rate=1e-6,
        precision=arguments.precision,
        compile=arguments.compile,
        checkpoint_activations=arguments.recompute,
    )
    model = HybridLM(shape.architecture, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        save_folder(model, Path(folder))
        judge = Lfm2ForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).train()
    model = model.to(device).train()
    tokens = torch.randint(1, shape.architecture.vocab_size, (size, sequence + 1))
    plain = moved(Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), None, torch.arange(size)), device)
    documents = (torch.arange(sequence) * 3 // sequence).expand(size, sequence).contiguous().to(device)
    packed = replace(plain, documents=documents)
    if arguments.compile:
        judge.compile()
    with ExitStack() as stack:
        stack.enter_context(prepared(model, recipe))
        ways = {
            "ours": ours(model, plain, recipe),
            "ours, packed": ours(model, packed, recipe),
            "transformers": theirs(judge, plain, recipe),
        }
        wall, cpu, memory = timed(ways, arguments, device, console)
        if arguments.profile:
            profiled(ways["ours, packed"], device)
    peak = peak_flops(device, getattr(torch, arguments.precision), threads)
    count = size * sequence
    return [
        {
            "shape": name,
            "parameters": shape.architecture.parameters,
            "threads": threads,
            "way": way,
            "tokens_per_second": count / median(wall[way]),
            "ratio": median(b / a for a, b in zip(wall[way], wall["transformers"], strict=True)),
            "cpu_ratio": median(b / a for a, b in zip(cpu[way], cpu["transformers"], strict=True)),
            "utilisation": peak and training_flops(shape.architecture, sequence) * count / median(wall[way]) / peak,
            "memory_bytes": memory[way],
            "batch": size,
            "sequence": sequence,
        }
        for way in ways
    ]


def timed(
    ways: dict[str, Callable[[], None]], arguments: argparse.Namespace, device: torch.device, console: Console
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]:
    wall, cpu, memory = defaultdict(list), defaultdict(list), {}
    for round_ in range(-1, arguments.rounds):
        console.print(f"  round {round_ + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}", end="\r")
        for way, step in ways.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            begun, spent = time.perf_counter(), time.process_time()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= 0:  # the first compiles, and makes the optimiser's state
                wall[way].append(time.perf_counter() - begun)
                cpu[way].append(time.process_time() - spent)
            memory[way] = memory_bytes(device)
    return wall, cpu, memory


def profiled(step: Callable[[], None], device: torch.device) -> None:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        step()
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="demo,50M,350M", help="of " + ", ".join(SHAPES))
    parser.add_argument("--threads", default="1,2", type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("--rounds", default=7, type=int)
    parser.add_argument("--batch", type=int, help="windows a step, instead of the shape's")
    parser.add_argument("--sequence", type=int, help="tokens a window, instead of the shape's")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="theirs by autocast")
    parser.add_argument("--compile", action="store_true", help="both models")
    parser.add_argument("--recompute", action="store_true", help="ours recomputes activations")
    parser.add_argument("--profile", action="store_true", help="where a step of ours spends its time")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    console = Console(width=140)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine()
    console.print(f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, {arguments.precision}")
    table = Table(title="A training step, tokens/s")
    for column in ("shape", "threads", "way", "tokens/s", "ratio", "CPU ratio", "of peak", "peak memory MB"):
        table.add_column(column, justify="left" if column in ("shape", "way") else "right")
    records: list[dict[str, Any]] = []
    for shape in arguments.shapes.split(","):
        for threads in arguments.threads if arguments.device == "cpu" else [torch.get_num_threads()]:
            records += (found := measured(shape, threads, arguments, console))
            for one in found:
                table.add_row(
                    f"{shape} ({one['parameters'] / 1e6:.1f} M), {one['batch']} x {one['sequence']}",
                    str(threads),
                    one["way"],
                    f"{one['tokens_per_second']:.0f}",
                    f"{one['ratio']:.2f}",
                    f"{one['cpu_ratio']:.2f}",
                    f"{one['utilisation']:.1%}" if one["utilisation"] else "unknown",
                    f"{one['memory_bytes'] / 1e6:.0f}",
                )
    console.print(table)
    console.print(f"Load {os.getloadavg()[0]:.1f} at the end. On a CPU, peak memory is the whole process's so far.")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
