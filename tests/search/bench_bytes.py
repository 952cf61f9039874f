"""The predicted peak beside the runner's measured one, at real shapes with random weights.

    make bench-bytes

Exports the shape, runs it with the context filled (or with `--short` a prompt of 128: the state is allocated whole all
the same), and prints what was predicted, the kernel's VmHWM above the empty runner, and what is left of the promise.
At 32K filling takes an hour and more on two cores, so that it is short unless `--fill` is said.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import get_args

from device_agent.contracts import KvCache, MeasureJob, Program, Protocol, Quantisation
from device_agent.runner.build import build
from device_agent.runner.output import parse_measure
from device_agent.runner.plan import measure_plan
from search.bytes import file_rows, total
from search.export import export_model
from search.export.contents import account, contents
from search.memory import EMPTY_RUNNER, PROMISE, Deployment, predicted_peak
from server.cli.model_bytes import architecture_of
from trainer.architecture import Architecture
from trainer.model import HybridLM

SHORT = 128
_SECONDS = 4 * 3600


class Files:
    """A store in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self.directory / name).write_bytes(data)
        return name


def measured(runner: Path, program: Program, directory: Path, prompt: int, kv: KvCache) -> tuple[int, int]:
    """(baseline, peak above it) in bytes of one run."""
    protocol = Protocol(prefill_tokens=prompt, decode_tokens=1, warmup=0, repetitions=1, kv_cache=kv)
    job = MeasureJob(program=program, protocol=protocol)
    plan = directory / "plan"
    plan.write_text(measure_plan(job, {file: str(directory / file) for file in program.files}))
    done = subprocess.run([runner, plan], capture_output=True, text=True, timeout=_SECONDS, check=False)
    block = parse_measure(done.stdout.splitlines())
    return block.baseline_bytes, block.peak_bytes - block.baseline_bytes


def row(name: str, architecture: Architecture, context: int, chunk: int, prompt: int, kv: KvCache, runner: Path) -> str:
    deployment = Deployment(context=context, chunk=chunk, kv=kv)
    with tempfile.TemporaryDirectory(prefix="fulcrum-bytes-") as scratch:
        directory = Path(scratch)
        program = export_model(
            HybridLM(architecture),
            context_length=context,
            prefill_chunk=chunk,
            quantisation=Quantisation(),
            store=Files(directory),
            kv_cache=kv,
        )
        (file,) = program.files
        rows, unexplained = account(contents(directory / file), architecture, deployment.scheme, context)
        assert total(rows) + unexplained == program.files[file]
        baseline, peak = measured(runner, program, directory, prompt, kv)
    guess = predicted_peak(architecture, deployment)
    model = total(file_rows(architecture, deployment.scheme, context, kv))
    return (
        f"{name:11s} {context:7d} {prompt:7d} {program.files[file] / 1e6:9.2f} {model / 1e6:9.2f} {unexplained:6d}"
        f" {guess / 1e6:10.1f} {peak / 1e6:9.1f} {peak / guess - 1:+7.1%} {(PROMISE - peak) / 1e6:9.1f}"
        f" {baseline / 1e6:8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["lfm2-350m", "lfm2-1.2b"], help="presets, or architecture files")
    parser.add_argument("--context", nargs="+", type=int, default=[4096, 32_768])
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--fill", action="store_true", help="fill 32K, too")
    parser.add_argument("--short", action="store_true", help="fill nothing")
    parser.add_argument("--kv", choices=get_args(KvCache), default="float32", help="type of the KV cache")
    args = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{os.cpu_count()} cores, load {load}; 4g32, {args.kv} KV; the empty runner is taken as {EMPTY_RUNNER / 1e6} MB"
    )
    print("shape       context  prompt   file MB  modelled  stray  predicted  measured   error  left MB  base MB")
    with tempfile.TemporaryDirectory(prefix="fulcrum-runner-") as scratch:
        runner = build(Path(scratch)).directory / "fulcrum-runner"
        for shape in args.shape:
            for context in args.context:
                full = args.fill or (context <= 4096 and not args.short)
                prompt = context - 1 if full else min(SHORT, context - 1)
                start = time.monotonic()
                line = row(shape, architecture_of(shape), context, args.chunk, prompt, args.kv, runner)
                print(f"{line}  ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
