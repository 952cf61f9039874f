"""Our Programs in our runner: the one that is searched with, the one that ships, and the kernels alone.

The kernels' Program is the composed one with everything taken out but its linears: as many of each, over inputs of the
same shapes, so that it reads as many weights from the same memory. What it takes is what XNNPACK's matrix kernels take
(with the rounding of their inputs); what the real Program takes beyond it is the rest of the graph: ExecuTorch's, ours.
"""

import hashlib
import json
import subprocess
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from device_shapes import CHUNK, CONTEXT, PREFILL
from torch import Tensor, nn

from device_agent.contracts import KvCache, MeasureJob, Program, Protocol, StageSpec, content_hash
from device_agent.runner.build import build
from device_agent.runner.output import parse_measure, parse_stages
from device_agent.runner.plan import measure_plan, stages_plan
from search.export import export_candidates, export_model
from search.export.lower import lower
from search.export.pieces import pieces_of
from search.spec import SearchSpec
from trainer.architecture import Architecture
from trainer.model import HybridLM


class Disk:
    """A store and a cache in a directory that outlives the bench: what was exported once is not exported again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self._directory / name

    def put(self, *arguments: bytes | str) -> str:
        """A store's put(data), or a cache's put(key, value)."""
        data = arguments[-1]
        name = f"{arguments[0]!s}.json" if len(arguments) == 2 else hashlib.sha256(arguments[0]).hexdigest()  # type: ignore[arg-type]
        draft = self.path(f"{name}.draft")
        draft.write_bytes(data if isinstance(data, bytes) else data.encode())
        draft.rename(self.path(name))
        return name

    def get(self, key: str) -> "str | bytes | None":
        """A cache's value, or None; or else a store's bytes."""
        kept = self.path(f"{key}.json")
        if kept.exists():
            return kept.read_text()
        return self.path(key).read_bytes() if self.path(key).exists() else None


class Turn(NamedTuple):
    """ns of prompts, and of tokens."""

    prefill: list[int]
    decode: list[int]


def spec_of(architecture: Architecture, kv_cache: KvCache = "float16") -> SearchSpec:
    """The cache is of float16 where nothing else is said: llama.cpp's is, too."""
    return SearchSpec(
        corpus="none",
        phones=("none",),
        vocab_size=architecture.vocab_size,
        context_length=CONTEXT,
        prefill_chunk=CHUNK,
        protocol=Protocol(kv_cache=kv_cache),
    )


def composed(architecture: Architecture, disk: Disk, kv_cache: KvCache = "float16") -> tuple[Program, float]:
    """The Program with random weights, and the seconds that its export took now."""
    start = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        [exported] = export_candidates([architecture], spec_of(architecture, kv_cache), disk, disk, pool)
    if isinstance(exported, Exception):
        raise exported
    return exported.program, time.perf_counter() - start


def monolithic(architecture: Architecture, disk: Disk) -> Program:
    """One file of a model with random weights, as it ships."""
    key = content_hash({"monolithic": architecture.hash, "like": composed(architecture, disk)[0].hash})
    kept = disk.get(key)
    if isinstance(kept, str):
        return Program.model_validate_json(kept)
    program = export_model(
        HybridLM(architecture),
        context_length=CONTEXT,
        prefill_chunk=CHUNK,
        quantisation=spec_of(architecture).quantisation,
        store=disk,  # type: ignore[arg-type]
        cache=disk,
        kv_cache=spec_of(architecture).protocol.kv_cache,
    )
    disk.put(key, program.model_dump_json())
    return program


class _Kernels(nn.Module):
    """The linears of a deployed piece over its input; outputs that nobody reads are computed all the same."""

    def __init__(self, piece: nn.Module, kind: str) -> None:
        super().__init__()
        self.piece, self.kind = piece, kind

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        p = self.piece
        match self.kind:
            case "conv":
                return p.out(p.b(x)), p.c(x), p.x(x)
            case "attention":
                return p.out(p.q(x)), p.k(x), p.v(x)
            case "ffn":
                return p.w2(p.w1(x)), p.w3(x)
            case _:
                return (p.out(x[:, -1:]),)


def kernels(architecture: Architecture, program: Program, disk: Disk) -> Program:
    """The linears of a composed `program`, alone."""
    quantisation = spec_of(architecture).quantisation
    pieces = pieces_of(architecture, context=CONTEXT, chunk=CHUNK, quantisation=quantisation)
    stages, files = [], {}
    for (name, piece, _), whole in zip(pieces, program.stages, strict=True):
        file = whole.file
        if piece.kind != "embedding":
            key = content_hash({"kernels": piece.key})
            if not isinstance(kept := disk.get(key), str):
                module = _Kernels(piece.module(piece.random_weights()), piece.kind)
                kept = json.dumps(disk.put(lower(module, piece.example(), CHUNK, False, ())[0]))
                disk.put(key, kept)
            file = json.loads(kept)
        files[file] = disk.path(file).stat().st_size
        stages.append(StageSpec(name=name, file=file))
    return program.model_copy(update={"files": files, "stages": tuple(stages)})


class Ours:
    """The native runner of this host over Programs in `disk`."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._runner = build(directory).directory / "fulcrum-runner"
        self._disk, self._plan = disk, directory / "plan"

    def _run(self, plan: str) -> list[str]:
        self._plan.write_text(plan)
        done = subprocess.run([self._runner, self._plan], capture_output=True, text=True, timeout=900, check=False)
        return done.stdout.splitlines()

    def _paths(self, program: Program) -> dict[str, str]:
        return {file: str(self._disk.path(file)) for file in program.files}

    def turn(self, program: Program, threads: int, decode: int, seconds: float) -> Turn:
        """Prompts and tokens of a fresh process, for about `seconds`."""
        protocol = Protocol(
            prefill_tokens=PREFILL, decode_tokens=decode, warmup=1, repetitions=1, repetition_seconds=seconds
        )
        job = MeasureJob(program=program, protocol=protocol)
        block = parse_measure(self._run(measure_plan(job, self._paths(program), threads)))
        return Turn(list(block.prefill_ns), [ns for times in block.decode_ns for ns in times])

    def stages(self, program: Program, threads: int, decode: int, repetitions: int) -> dict[str, Turn]:
        """The same by kind of piece: each list sums the pieces of that kind."""
        protocol = Protocol(prefill_tokens=PREFILL, decode_tokens=decode, warmup=1, repetitions=repetitions)
        job = MeasureJob(program=program, protocol=protocol)
        lines = self._run(stages_plan(job, self._paths(program), threads))
        times = parse_stages(lines, [stage.name for stage in program.stages])
        sums: dict[str, list[Tensor]] = defaultdict(list)
        for one in times:
            both = torch.tensor([*one.prefill_ns, *one.decode_ns])
            sums[one.stage.rsplit(".", 1)[-1]].append(both)
        count = len(times[0].prefill_ns)
        totals = {kind: torch.stack(each).sum(0).tolist() for kind, each in sums.items()}
        return {kind: Turn(total[:count], total[count:]) for kind, total in totals.items()}
