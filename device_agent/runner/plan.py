"""The plan: what a runner is told, in lines of words that C++ reads without a parser.

A line is there only where it says something: a plan of prefill and decode alone is one that the oldest runner reads,
and a runner that does not know a line refuses the plan rather than measure something else.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from device_agent.contracts import GenerateJob, MeasureJob, Program, Protocol, Sha256

Paths = Mapping[Sha256, str]

SNAPSHOTS = "snapshots"  # where the runner keeps them, beneath the directory that it is started in
SNAPSHOTS_BYTES = 1 << 30  # beyond it the one that was not used for longest goes


def _chain(program: Program, paths: Paths) -> Iterator[str]:
    for stage in program.stages:
        yield f"stage {paths[stage.file]} {int(stage.takes_position)}"
        for state in stage.state:
            dtype = "" if state.dtype == "float32" else f" {state.dtype}"
            yield f"state {state.update}{dtype} {' '.join(map(str, state.shape))}"


def measure_plan(job: MeasureJob, paths: Paths, threads: int = 1) -> str:
    """One block of a Protocol. `paths` maps each file of the Program to its path on the phone (no spaces)."""
    return _render(job.program, job.protocol, paths, threads, _further(job))


def memory_plan(job: MeasureJob, paths: Paths, threads: int = 1) -> str:
    """The memory pass: the same work once, with nothing timed that counts."""
    sampled = (*_further(job), f"memory_ms {job.protocol.memory_sample_ms}")
    return _render(job.program, _once(job.protocol), paths, threads, sampled)


def cold_load_plan(job: MeasureJob, paths: Paths, threads: int = 1) -> str:
    """A load of files that were asked to leave the page cache, and nothing else."""
    return _render(job.program, _once(job.protocol), paths, threads, (), mode="load")


def stages_plan(job: MeasureJob, paths: Paths, threads: int = 1) -> str:
    """The main workload with a clock around each stage of the Program."""
    counted = job.protocol.model_copy(update={"warmup_seconds": 0.0, "repetition_seconds": 0.0, "max_seconds": None})
    return _render(job.program, counted, paths, threads, (), mode="stages")


def sustained_plan(job: MeasureJob, paths: Paths, threads: int = 1, seconds: float = 60.0) -> str:
    """One minute of the main workload, without a warm-up: what comes before is the minute before."""
    on_and_on = {"warmup": 0, "warmup_seconds": 0.0, "repetitions": 1, "repetition_seconds": seconds}
    return _render(job.program, job.protocol.model_copy(update={**on_and_on, "max_seconds": None}), paths, threads, ())


def _once(protocol: Protocol) -> Protocol:
    once = {"warmup": 0, "warmup_seconds": 0.0, "repetitions": 1, "repetition_seconds": 0.0, "max_seconds": None}
    return protocol.model_copy(update=once)


def _further(job: MeasureJob) -> tuple[str, ...]:
    workloads = job.protocol.further(job.program.context_length)
    named = any(w.kind == "prefix" for w in workloads)
    lines = (f"workload {w.kind} {w.prefill_tokens} {w.decode_tokens or w.prefix_tokens}" for w in workloads)
    return (*(_snapshots(job.program) if named else ()), *lines)


def _snapshots(program: Program) -> tuple[str, ...]:
    return f"program {program.hash}", f"snapshots {SNAPSHOTS} {SNAPSHOTS_BYTES}"


def _render(
    program: Program,
    protocol: Protocol,
    paths: Paths,
    threads: int,
    more: tuple[str, ...],
    mode: Literal["measure", "load", "stages"] = "measure",
) -> str:
    seconds = {
        "warmup_seconds": protocol.warmup_seconds,
        "repetition_seconds": protocol.repetition_seconds,
        "max_seconds": protocol.max_seconds,
    }
    lines = [
        f"mode {mode}",
        f"threads {threads}",
        f"chunk {program.prefill_chunk}",
        f"vocab {program.vocab_size}",
        f"context {program.context_length}",
        f"prefill {protocol.prefill_tokens}",
        f"decode {protocol.decode_tokens}",
        f"warmup {protocol.warmup}",
        f"repetitions {protocol.repetitions}",
        *(f"{name} {value:g}" for name, value in seconds.items() if value),
        *more,
        *_chain(program, paths),
    ]
    return "\n".join(lines) + "\n"


def generate_plan(job: GenerateJob, paths: Paths, threads: int = 1) -> str:
    """A greedy continuation of a prompt."""
    lines = [
        "mode generate",
        f"threads {threads}",
        f"chunk {job.program.prefill_chunk}",
        f"vocab {job.program.vocab_size}",
        f"context {job.program.context_length}",
        f"decode {job.new_tokens}",
        f"prompt {' '.join(map(str, job.prompt))}",
        *((*_snapshots(job.program), f"prefix {job.prefix_tokens}") if job.prefix_tokens else ()),
        *_chain(job.program, paths),
    ]
    return "\n".join(lines) + "\n"


def golden_plan(
    program: Program, tokens: Sequence[int], prefill: int, repetitions: int, paths: Mapping[Sha256, str]
) -> str:
    """Feed known tokens, the first `prefill` at once and the others one by one, and tell all logits; on one thread."""
    lines = [
        "mode golden",
        "threads 1",
        f"chunk {program.prefill_chunk}",
        f"vocab {program.vocab_size}",
        f"context {program.context_length}",
        f"prefill {prefill}",
        f"repetitions {repetitions}",
        f"prompt {' '.join(map(str, tokens))}",
        *_chain(program, paths),
    ]
    return "\n".join(lines) + "\n"
