"""One file against many: what linking costs, and whether a linked Program runs like the composed one.

    make bench-composition                    # the demo's shape and LFM2-350M's
    python tests/search/bench_composition.py --shapes demo --pairs 12

For every shape, with random weights: CPU seconds of lowering its blocks, of asking for them again, and of linking
them; of the plain whole-model export where that is asked for. Then, on a virtual phone (its milliseconds are this
host's): the same greedy tokens and logits, what was pushed, peak memory, and composed against linked by interleaved
blocks (ABBA), as the ratio of medians with its 95 % interval over pairs, on 1 and on 2 threads.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from device_agent.adb import Link, ensure_key
from device_agent.bench import Bench
from device_agent.contracts import GenerateJob, Generation, MeasureJob, Profile, Program, Protocol
from device_agent.runner.build import build
from device_agent.virtual import running
from search.export import export_candidates, link_program
from search.export.lower import lower
from search.export.modules import Chain
from search.export.pieces import pieces_of
from search.spec import SearchSpec
from trainer.architecture import LFM2_1_2B, LFM2_350M, LFM2_700M, Architecture, Attention, ShortConv

SHAPES = {
    "demo": Architecture(
        vocab_size=2048,
        width=256,
        ffn_width=768,
        blocks=tuple(Attention(heads=8, kv_heads=2, head_dim=32) if i in (1, 4) else ShortConv() for i in range(6)),
    ),
    "350M": LFM2_350M,
    "700M": LFM2_700M,
    "1.2B": LFM2_1_2B,
}
CONTEXT, CHUNK, PROMPT = 512, 128, 70
_Value = TypeVar("_Value")


class Disk:
    """This is `search.ports.Store` in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self.directory / name).write_bytes(data)
        return name

    def get(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def files(self, *programs: Program) -> dict[str, Path]:
        return {file: self.directory / file for program in programs for file in program.files}


class Cache(dict[str, str]):
    """This is `search.ports.BlockCache`."""

    def put(self, key: str, value: str) -> None:
        self[key] = value


def timed(work: Callable[[], _Value]) -> tuple[_Value, float]:
    """A value, and the CPU seconds of this process that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def composed(architecture: Architecture, spec: SearchSpec, store: Disk, cache: Cache) -> Program:
    with ThreadPoolExecutor(1) as executor:
        (outcome,) = export_candidates([architecture], spec, store, cache, executor)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome.program


def plain(architecture: Architecture, spec: SearchSpec, linked: Program, store: Disk) -> Program:
    """The whole model lowered at once, with the weights that its blocks have."""
    chain = list(pieces_of(architecture, context=CONTEXT, chunk=CHUNK, quantisation=spec.quantisation))
    parts = [piece.module(piece.random_weights()) for _, piece, _ in chain]
    arity = [(piece.takes_position, len(piece.states())) for _, piece, _ in chain]
    (stage,) = linked.stages
    data, planned = lower(Chain(parts, arity), torch.zeros(1, CHUNK // 2, dtype=torch.int64), CHUNK, True, stage.state)
    file = store.put(data)
    whole = {"files": {file: len(data)}, "stages": (stage.model_copy(update={"file": file}),)}
    return linked.model_copy(update=whole | {"planned_memory": planned})


def row(name: str, cpu: float, program: Program) -> None:
    size, arenas = sum(program.files.values()) / 1e6, program.planned_memory / 1e6
    print(
        f"  {name:<34}{cpu:9.2f} CPU s {size:9.1f} MB in {len(program.files)} files, arenas {arenas:.2f} MB", flush=True
    )


def exported(name: str, spec: SearchSpec, store: Disk, with_plain: bool) -> dict[str, Program]:
    """Programs of a shape, by layout; prints what each cost."""
    architecture, cache = SHAPES[name], Cache()
    program, cpu = timed(lambda: composed(architecture, spec, store, cache))
    row("composed, every block new", cpu, program)
    again, cpu = timed(lambda: composed(architecture, spec, store, cache))
    row("composed, every block seen", cpu, again)
    linked, cpu = timed(lambda: link_program(program, store))
    row("linked of those", cpu, linked.program)
    programs = {"composed": program, "linked": linked.program}
    if with_plain:
        whole, cpu = timed(lambda: plain(architecture, spec, linked.program, store))
        row("whole model lowered at once", cpu, whole)
        programs["plain"] = whole
    print(f"  peak memory of this process so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    return programs


def same_tokens(bench: Bench, programs: dict[str, Program], store: Disk) -> None:
    prompt = torch.randint(0, 2048, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    steps = {}
    for name, program in programs.items():
        said = bench.run(GenerateJob(program=program, prompt=tuple(prompt), new_tokens=32), store.files(program))
        assert isinstance(said, Generation)
        steps[name] = said.steps
        pushed = said.transfer
        print(f"  pushed for {name}: {pushed.pushed_files} files, {pushed.pushed_bytes / 1e6:.1f} MB", flush=True)
    for name in list(programs)[1:]:
        pairs = list(zip(steps["composed"], steps[name], strict=True))
        agreed = sum(a.token == b.token for a, b in pairs)
        off = max(abs(a.logit - b.logit) for a, b in pairs)
        print(f"  composed and {name}: {agreed} of {len(pairs)} greedy tokens the same, logits differ by {off:g}")


def compare(bench: Bench, programs: dict[str, Program], first: str, store: Disk, threads: int, pairs: int) -> None:
    protocol = Protocol.model_validate(
        {"blocks": pairs, "repetitions": 4, "threads": threads, "gates": {"wait_seconds": 0}}
    )
    jobs = [MeasureJob(program=programs[name], protocol=protocol) for name in (first, "linked")]
    found = bench.compare(*jobs, store.files(*(job.program for job in jobs)))
    said = f"{threads} thread{'s' if threads > 1 else ' '}"
    for figure, ratio in (("decode", found.decode), ("TTFT", found.ttft)):
        profile = Profile.of(found.first)
        value = profile.decode_ms.value if figure == "decode" else profile.ttft_ms.value
        print(
            f"  {said} {figure:<7}{first} {value:9.3f} ms; linked / {first} "
            f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], {ratio.pairs} pairs",
            flush=True,
        )
    of_first, of_linked = (Profile.of(side).peak_memory_bytes / 1e6 for side in (found.first, found.second))
    print(f"  {said} peak memory: {first} {of_first:.1f} MB, linked {of_linked:.1f} MB", flush=True)


@contextmanager
def phone(scratch: Path) -> Iterator[Bench]:
    """A bench at a virtual phone of its own, with the runner of this host."""
    bundle = build(scratch / "runner")
    with (
        running(scratch / "phone", accept_first_key=True) as started,
        Link.connect(started.address, ensure_key(scratch / "adbkey"), 60.0) as link,
    ):
        yield Bench(link, bundle, serial=started.address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", default="demo,350M", help=f"of {', '.join(SHAPES)}; default demo,350M")
    parser.add_argument("--plain", default="demo", help="shapes to lower as a whole, too: minutes beyond the demo's")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of interleaved blocks")
    given = parser.parse_args()
    load = " ".join(f"{one:.2f}" for one in os.getloadavg())
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}, {time.strftime('%F %T')}"
    )
    for name in given.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            (scratch / "store").mkdir()
            os.environ["FULCRUM_CACHE"] = str(scratch / "cache")  # what learning costs belongs to the picture
            store = Disk(scratch / "store")
            spec = SearchSpec(
                corpus="none",
                phones=("none",),
                vocab_size=SHAPES[name].vocab_size,
                context_length=CONTEXT,
                prefill_chunk=CHUNK,
            )
            print(f"{name}: {SHAPES[name].parameters / 1e6:.1f} M parameters, 4 bit, context {CONTEXT}, chunk {CHUNK}")
            programs = exported(name, spec, store, name in given.plain.split(","))
            with phone(scratch) as bench:
                same_tokens(bench, programs, store)
                for threads in (1, 2):
                    compare(bench, programs, "composed", store, threads, given.pairs)
                    if "plain" in programs:
                        compare(bench, programs, "plain", store, threads, given.pairs)
    print(f"load at the end {' '.join(f'{one:.2f}' for one in os.getloadavg())}")


if __name__ == "__main__":
    main()
