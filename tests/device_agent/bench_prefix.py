"""`make bench-prefix`: the time to the first token with a prefix from a snapshot beside that without, and what the
runner itself costs: its start, and its memory before a Program is loaded.

Weights are random: neither the times nor the bytes depend on their values. Every figure is this host's.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from device_agent import android
from device_agent.contracts import KvCache, MeasureJob, Program, Protocol
from device_agent.runner.build import build
from device_agent.runner.output import parse_measure
from device_agent.runner.plan import measure_plan, memory_plan
from search.export import export_candidates
from search.spec import SearchSpec
from trainer.architecture import Architecture, Attention, ShortConv

_STARTS = 20


def _hybrid(
    width: int, ffn: int, vocab: int, heads: tuple[int, int, int], attention: set[int], depth: int
) -> Architecture:
    q, kv, dim = heads
    conv, attend = ShortConv(kernel=3), Attention(heads=q, kv_heads=kv, head_dim=dim)
    blocks = tuple(attend if i in attention else conv for i in range(depth))
    return Architecture(vocab_size=vocab, width=width, ffn_width=ffn, blocks=blocks)


SHAPES = {
    "demo": _hybrid(192, 512, 2048, (6, 2, 32), {2, 5}, 6),
    "350m": _hybrid(1024, 4608, 65_536, (16, 8, 64), {2, 5, 8, 10, 12, 14}, 16),  # LFM2-350M's
}


class _Disk:
    """A store and a cache in a directory, for as long as the bench runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, *arguments: bytes | str) -> str:
        data = arguments[-1] if isinstance(arguments[-1], bytes) else arguments[-1].encode()
        name = str(arguments[0]) if len(arguments) == 2 else hashlib.sha256(data).hexdigest()
        self.path(name).write_bytes(data)
        return name

    def get(self, key: str) -> str | None:
        return self.path(key).read_text() if self.path(key).is_file() else None

    def path(self, name: str) -> Path:
        return self._directory / name


def _run(runner: Path, plan: str, directory: Path) -> list[str]:
    (directory / "plan").write_text(plan)
    done = subprocess.run([runner, "plan"], capture_output=True, text=True, check=False, cwd=directory)
    return done.stdout.splitlines()


def _export(shape: str, kv_cache: KvCache, protocol: Protocol, context: int, chunk: int, disk: _Disk) -> Program:
    spec = SearchSpec(
        corpus="any",
        phones=("any",),
        vocab_size=SHAPES[shape].vocab_size,
        context_length=context,
        prefill_chunk=chunk,
        protocol=protocol,
    )
    with ThreadPoolExecutor(1) as pool:
        (exported,) = export_candidates([SHAPES[shape]], spec, disk, disk, pool)
    if isinstance(exported, Exception):
        raise exported
    print(f"{shape}, {kv_cache} cache: exported in {exported.export_seconds:.0f} s", flush=True)
    return exported.program


def _starts(runner: Path, scratch: Path) -> None:
    """A start is a process that reads a plan, registers its operators, makes its threads and finds no Program."""
    (scratch / "empty").write_text("mode generate\nvocab 2\nstage nowhere 0\n")
    seconds = []
    for _ in range(_STARTS):
        begun = time.monotonic()
        subprocess.run([runner, "empty"], capture_output=True, check=False, cwd=scratch)
        seconds.append(time.monotonic() - begun)
    print(f"\nRunner: starts and ends in {statistics.median(seconds) * 1e3:.1f} ms (median of {_STARTS}).")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--kv-cache", nargs="+", choices=["float32", "float16", "int8"], default=["float32", "int8"])
    parser.add_argument("--prefixes", nargs="+", type=int, default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--suffix", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


def _measure(shape: str, kv_cache: KvCache, given: argparse.Namespace, runner: Path, disk: _Disk) -> Iterator[str]:
    """The rows of the table for one Program; its memory is printed at once."""
    context, scratch = max(given.prefixes) + given.suffix, runner.parent
    protocol = Protocol(
        prefill_tokens=16,
        decode_tokens=1,
        prefix_lengths=tuple(given.prefixes),
        suffix_tokens=given.suffix,
        kv_cache=kv_cache,
        warmup=0,
        repetitions=given.repetitions,
    )
    program = _export(shape, kv_cache, protocol, context, given.chunk, disk)
    paths = {name: str(disk.path(name)) for name in program.files}
    job = MeasureJob(program=program, protocol=protocol)
    short = job.model_copy(update={"protocol": protocol.model_copy(update={"prefix_lengths": ()})})
    lines = _run(runner, memory_plan(short, paths, given.threads), scratch)
    memory, empty = parse_measure(lines), next(json.loads(line) for line in lines if '"empty"' in line)
    parts = {name: (android.status(empty["status"]).get(name) or 0) / 1e6 for name in ("RssAnon", "RssFile")}
    print(
        f"  empty runner {memory.baseline_bytes / 1e6:.1f} MB (anonymous {parts['RssAnon']:.1f}, mapped files "
        f"{parts['RssFile']:.1f}); peak above it {(memory.peak_bytes - memory.baseline_bytes) / 1e6:.1f} MB, where the "
        f"state takes {program.state_bytes / 1e6:.1f} MB and the files {sum(program.files.values()) / 1e6:.1f} MB",
        flush=True,
    )
    block = parse_measure(_run(runner, measure_plan(job, paths, given.threads), scratch), protocol.further(context))
    for samples in block.further:
        prefix, whole, size = samples.workload.prefix_tokens, samples.workload.prefill_tokens, samples.snapshot_bytes
        times = samples.prefill_ns, samples.restored_ns, samples.restore_ns
        cold, warm, restore = (statistics.median(ns) / 1e6 for ns in times)
        yield (
            f"| {shape} | {kv_cache} | {prefix} + {whole - prefix} | {cold:.1f} ms | {warm:.2f} ms "
            f"| {warm / cold:.1%} | {restore:.2f} ms | {(size or 0) / 1e6:.2f} MB | {(size or 0) / prefix:.0f} |"
        )


def main() -> int:
    given = _arguments()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}; {given.threads} thread(s). Not a phone.")
    with tempfile.TemporaryDirectory() as directory:
        runner = build(Path(directory) / "runner").directory / "fulcrum-runner"
        disk = _Disk(Path(directory))
        _starts(runner, Path(directory))
        rows = [
            row
            for shape in given.shapes
            for kv_cache in given.kv_cache
            for row in _measure(shape, kv_cache, given, runner, disk)
        ]
    print("\n| shape | cache | prefix + suffix | TTFT without | with it | share | restoring | snapshot | bytes/token |")
    print("|---|---|---|---|---|---|---|---|---|", *rows, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
