"""`make bench-device`: our Programs beside llama.cpp, ExecuTorch's own export and the limits of this host.

Same shapes, same threads, random weights, one run, the runners taking turns. A limit of decoding is the measured speed
of reading memory over the bytes of the weights; a limit of both is what XNNPACK's kernels alone take (device_ours.py):
what our Program takes beyond them is in its graph, block by block, and could be mended here; the rest only upstream.

A shape's figures are kept in .cache/bench-device as they are done, so that an interrupted bench carries on; `--again`
measures anew. llama.cpp is built at the first run (minutes to half an hour).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import device_executorch
import device_llama
import llama
from device_ours import Disk, Ours, Turn, composed, kernels, monolithic
from device_shapes import BITS, PREFILL, SHAPES, decoded_weights, prefill_operations

from trainer.architecture import Architecture

DECODE = 32
Record = dict[str, Any]


def bandwidth(directory: Path, threads: int, seconds: float) -> float:
    """Bytes per second that this host streams from memory at best."""
    source, program = Path(__file__).with_name("read_bandwidth.cpp"), directory / "read_bandwidth"
    command = ["g++", "-O3", "-march=native", "-std=c++17", "-pthread", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program, "1024", str(threads), str(seconds)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0])


class Bench:
    """One shape after the other; `rounds` times the runners take turns, each for `seconds`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.disk = Disk(arguments.cache / "files")
        self.ours = Ours(arguments.cache / "runner", self.disk)
        self.interpreter = llama.python(arguments.llama)

    def shape(self, name: str) -> Record:
        """All figures of a shape; kept, and taken from there where they are kept."""
        kept = self.arguments.cache / f"{name}.json"
        if kept.exists() and not self.arguments.again:
            print(f"{name}: kept from {time.ctime(kept.stat().st_mtime)}; --again measures anew")
            record: Record = json.loads(kept.read_text())
            return record
        record = self._measured(name, SHAPES[name])
        kept.write_text(json.dumps(record, indent=1))
        return record

    def _measured(self, name: str, architecture: Architecture) -> Record:
        start = time.perf_counter()
        program, exported = composed(architecture, self.disk)
        print(f"{name}: exported in {exported:.0f} s", flush=True)
        self.programs = {"ours": program}
        self.kernels = kernels(architecture, program, self.disk)
        if self.arguments.monolithic:
            self.programs["monolithic"] = monolithic(architecture, self.disk)
        if self.arguments.executorch:
            self.programs["executorch"] = device_executorch.export(architecture, program, self.disk)
        file = device_llama.gguf_of(architecture, self.arguments.cache)
        print(f"{name}: all is there after {time.perf_counter() - start:.0f} s", flush=True)
        weights = decoded_weights(architecture)
        record: Record = {"shape": name, "weights": weights, "operations": prefill_operations(architecture, PREFILL)}
        for threads in self.arguments.threads:
            record[str(threads)] = self._interleaved(name, architecture, file, threads) | {
                "bandwidth": bandwidth(self.arguments.cache, threads, self.arguments.seconds),
                "load": os.getloadavg()[0],
            }
        return record

    def _interleaved(self, name: str, architecture: Architecture, file: Path, threads: int) -> Record:
        seconds, turns, stages = self.arguments.seconds, defaultdict(list), defaultdict(list)
        with ExitStack() as stack:
            theirs = stack.enter_context(device_llama.open_(self.interpreter, file, threads))
            runs = {
                which: partial(self.ours.turn, program, threads, DECODE, seconds)
                for which, program in self.programs.items()
            }
            runs["llama.cpp"] = partial(device_llama.turn, theirs, architecture.vocab_size, DECODE, seconds)
            for number in range(self.arguments.rounds):
                for which, run in runs.items():
                    turns[which].append(run())
                once = median(turns["ours"][-1].prefill) + DECODE * median(turns["ours"][-1].decode)
                repetitions = min(100, max(1, round(seconds * 1e9 / once)))
                stages["ours"].append(self.ours.stages(self.programs["ours"], threads, DECODE, repetitions))
                stages["kernels"].append(self.ours.stages(self.kernels, threads, DECODE, repetitions))
                print(f"{name}: {threads} threads, round {number + 1} of {self.arguments.rounds}", flush=True)
        return {
            "turns": {which: _summary(each) for which, each in turns.items()},
            "blocks": {which: _by_kind(each) for which, each in stages.items()},
        }


def _summary(rounds: list[Turn]) -> Record:
    """Medians over all rounds, and the medians of each."""
    return {
        what: {
            "ms": median([ns for turn in rounds for ns in getattr(turn, what)]) / 1e6,
            "rounds_ms": [median(getattr(turn, what)) / 1e6 for turn in rounds],
        }
        for what in ("prefill", "decode")
    }


def _by_kind(rounds: list[dict[str, Turn]]) -> Record:
    return {
        kind: {
            what: median([ns for one in rounds for ns in getattr(one[kind], what)]) / 1e6
            for what in ("prefill", "decode")
        }
        for kind in rounds[0]
    }


def tell(record: Record, threads: str) -> None:
    """A shape's tables."""
    found = record[threads]
    print(f"\n{record['shape']}, {threads} thread{'s' * (threads != '1')} (load {found['load']:.1f})")
    floor = record["weights"] * BITS / 8 / found["bandwidth"] * 1e3
    total = {what: _total(found["blocks"], "kernels", what) for what in ("prefill", "decode")}
    rate = f"{'tokens/s':>10}{'ours is':>9}"
    print(f"  {'':22}{f'prefill {PREFILL}':>14}{rate}{'decode':>14}{rate}")
    base = found["turns"]["ours"]
    rows = {which: {what: times[what]["ms"] for what in times} for which, times in found["turns"].items()}
    rows["XNNPACK's kernels"] = total
    for which, times in rows.items():
        line = f"  {which:22}"
        for what, count in (("prefill", PREFILL), ("decode", 1)):
            line += f"{times[what]:11.3f} ms{count / times[what] * 1e3:10.1f}{base[what]['ms'] / times[what]:8.2f}x"
        print(line)
    reading = f"  reading {record['weights'] * BITS / 8e6:.1f} MB at {found['bandwidth'] / 1e9:.1f} GB/s"
    print(f"{reading:57}{floor:11.3f} ms{1e3 / floor:10.1f}{base['decode']['ms'] / floor:8.2f}x")
    print(f"  kernels: {record['operations'] / total['prefill'] / 1e6:.1f} GOP/s in prefill", end="; ")
    print(f"{record['weights'] / total['decode'] / 1e6:.2f} G weights/s in decode")
    print(
        f"  {'block':12}{'prefill: ours':>15}{'kernels':>10}{'rest':>8}{'decode: ours':>15}{'kernels':>10}{'rest':>8}"
    )
    for kind in (*found["blocks"]["ours"], "all"):
        line = f"  {kind:12}"
        for what in ("prefill", "decode"):
            whole, kernel = (_total(found["blocks"], side, what, kind) for side in ("ours", "kernels"))
            line += f"{whole:15.3f}{kernel:10.3f}{100 * (whole - kernel) / _total(found['blocks'], 'ours', what):7.1f}%"
        print(line)


def _total(blocks: Record, side: str, what: str, kind: str = "all") -> float:
    return sum(times[what] for name, times in blocks[side].items() if kind in ("all", name))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--threads", default="1,2", type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("--seconds", default=2.0, type=float, help="of each runner in each round")
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--monolithic", action="store_true", help="our one-file Program too, as it ships")
    parser.add_argument("--executorch", action="store_true", help="ExecuTorch's own LLM export too: minutes a shape")
    parser.add_argument("--again", action="store_true", help="measure shapes whose figures are kept")
    parser.add_argument("--cache", default=Path(".cache/bench-device"), type=Path)
    parser.add_argument("--llama", default=Path(".cache/llama"), type=Path, help="where llama.cpp lies or is built")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    arguments.shapes = arguments.shapes.split(",")
    if unknown := set(arguments.shapes) - set(SHAPES):
        parser.error(f"there is no shape {', '.join(sorted(unknown))}")
    return arguments


def _host() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; no phone: what is told is this host's."


def main() -> int:
    arguments = _arguments()
    arguments.cache = arguments.cache.absolute()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    print(_host(), flush=True)
    bench = Bench(arguments)
    records = [bench.shape(name) for name in arguments.shapes]
    for record in records:
        for threads in map(str, arguments.threads):
            if threads in record:
                tell(record, threads)
    if arguments.json:
        arguments.json.write_text(json.dumps({"host": _host(), "llama-cpp-python": llama.VERSION, "shapes": records}))
    if not arguments.executorch:
        print("\nNot run: ExecuTorch's own LLM export (--executorch).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
