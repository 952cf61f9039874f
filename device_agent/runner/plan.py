"""The plan: what a runner is told, in lines of words that C++ reads without a parser."""

from collections.abc import Iterator, Mapping, Sequence

from device_agent.contracts import GenerateJob, MeasureJob, Program, Protocol, Sha256


def _chain(program: Program, paths: Mapping[Sha256, str]) -> Iterator[str]:
    for stage in program.stages:
        yield f"stage {paths[stage.file]} {int(stage.takes_position)}"
        for state in stage.state:
            yield f"state {state.update} {' '.join(map(str, state.shape))}"


def measure_plan(job: MeasureJob, paths: Mapping[Sha256, str]) -> str:
    """One block of a Protocol. `paths` maps each file of the Program to its path on the phone (no spaces)."""
    return _render(job.program, job.protocol, paths)


def memory_plan(job: MeasureJob, paths: Mapping[Sha256, str]) -> str:
    """The memory pass: the same work once, with nothing timed that counts."""
    once = job.protocol.model_copy(update={"warmup": 0, "repetitions": 1})
    return _render(job.program, once, paths)


def _render(program: Program, protocol: Protocol, paths: Mapping[Sha256, str]) -> str:
    lines = [
        "mode measure",
        f"threads {protocol.threads}",
        f"chunk {program.prefill_chunk}",
        f"vocab {program.vocab_size}",
        f"context {program.context_length}",
        f"prefill {protocol.prefill_tokens}",
        f"decode {protocol.decode_tokens}",
        f"warmup {protocol.warmup}",
        f"repetitions {protocol.repetitions}",
        *_chain(program, paths),
    ]
    return "\n".join(lines) + "\n"


def generate_plan(job: GenerateJob, paths: Mapping[Sha256, str], threads: int = 1) -> str:
    """A greedy continuation of a prompt."""
    lines = [
        "mode generate",
        f"threads {threads}",
        f"chunk {job.program.prefill_chunk}",
        f"vocab {job.program.vocab_size}",
        f"context {job.program.context_length}",
        f"decode {job.new_tokens}",
        f"prompt {' '.join(map(str, job.prompt))}",
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
