"""What the native runner measures beside the main workload, on real exported Programs."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_export import ARCHITECTURE, CHUNK, CONTEXT, Disk, _continue, _run

from device_agent.contracts import MeasureJob, Program, Protocol
from device_agent.runner.build import build
from device_agent.runner.output import parse_cold_load, parse_measure, parse_stages
from device_agent.runner.plan import cold_load_plan, measure_plan, memory_plan, stages_plan, sustained_plan
from search.export import export_candidates
from search.spec import SearchSpec

PROTOCOL = Protocol(
    prefill_tokens=16, decode_tokens=6, prefill_lengths=(48,), decode_depths=(40, "full"), warmup=2, repetitions=3
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("runner")).directory / "fulcrum-runner"


@pytest.fixture(scope="module")
def program(disk: Disk) -> Program:
    spec = SearchSpec(
        corpus="any",
        phones=("any",),
        vocab_size=260,
        context_length=CONTEXT,
        prefill_chunk=CHUNK,
        protocol=PROTOCOL,
    )
    with ThreadPoolExecutor(1) as pool:
        exported = export_candidates([ARCHITECTURE], spec, disk, disk, pool)[0]
    assert not isinstance(exported, Exception)
    return exported.program


def synthetic_prompt(length: int, vocab: int) -> list[int]:
    """The runner's own prompt: Knuth's MMIX generator, its upper bits."""
    tokens, x = [], 1
    for _ in range(length):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append((x >> 33) % vocab)
    return tokens


def test_every_workload_brings_its_samples(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    further = PROTOCOL.further(CONTEXT)
    block = parse_measure(_run(runner, measure_plan(job, disk.paths(program)), tmp_path), further)
    assert (len(block.prefill_ns), [len(times) for times in block.decode_ns]) == (3, [6, 6, 6])
    assert block.first_prefill_ns
    assert block.cpu_ns
    prompt, depth, full = block.further
    assert (len(prompt.prefill_ns), prompt.decode_ns) == (3, ())
    assert [len(times) for times in depth.decode_ns] == [6, 6, 6]
    assert depth.fill_ns
    assert full.workload.prefill_tokens == CONTEXT - 6


def test_after_going_back_the_tokens_are_those_of_a_plain_continuation(
    runner: Path, disk: Disk, program: Program, tmp_path: Path
) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    said = [json.loads(line) for line in _run(runner, measure_plan(job, disk.paths(program)), tmp_path)]
    at_depth = [event["token"] for event in said if event["event"] == "repetition" and event.get("workload") == 2]
    prompt = synthetic_prompt(40, program.vocab_size)
    plain = _continue(runner, program, disk, prompt, PROTOCOL.decode_tokens + 1, tmp_path)
    assert at_depth == [plain[-1].token] * 3


def test_seconds_and_their_cap_decide_how_often(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    long = Protocol(prefill_tokens=16, decode_tokens=6, warmup=0, repetitions=1, repetition_seconds=0.2)
    job = MeasureJob(program=program, protocol=long)
    block = parse_measure(_run(runner, measure_plan(job, disk.paths(program)), tmp_path))
    spent = sum(block.prefill_ns) + sum(map(sum, block.decode_ns))
    assert len(block.prefill_ns) > 1
    assert spent > 0.1e9
    short = long.model_copy(update={"repetitions": 1000, "repetition_seconds": 0.0, "max_seconds": 1e-6})
    capped = MeasureJob(program=program, protocol=short)
    assert len(parse_measure(_run(runner, measure_plan(capped, disk.paths(program)), tmp_path)).prefill_ns) == 1
    minute = _run(runner, sustained_plan(job, disk.paths(program), seconds=0.2), tmp_path)
    assert len(parse_measure(minute).prefill_ns) > 1


def test_the_memory_pass_reads_the_kernel(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    protocol = PROTOCOL.model_copy(update={"memory_sample_ms": 1})
    job = MeasureJob(program=program, protocol=protocol)
    block = parse_measure(_run(runner, memory_plan(job, disk.paths(program)), tmp_path), PROTOCOL.further(CONTEXT))
    assert block.memory_samples >= 2
    assert block.sampled_peak_bytes
    assert block.baseline_bytes < block.peak_bytes
    for moment in (block.loaded, block.steady):
        assert moment is not None
        assert moment.rss_bytes
        assert moment.pss_bytes
        assert moment.private_dirty_bytes
        assert moment.swap_bytes is not None
        assert moment.file_bytes is not None
        assert moment.pss_bytes <= moment.rss_bytes * 1.1  # two readings of a process that lives
    assert len(block.prefill_ns) == 1


def test_a_cold_load_says_how_cold_it_was(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    load = parse_cold_load(_run(runner, cold_load_plan(job, disk.paths(program)), tmp_path))
    assert load.load_ns > 0
    assert 0 <= load.resident <= 1  # a file system in memory keeps all of it: then the load is called warm
    assert load.cold == (load.resident <= 0.01)


def test_stages_are_timed_each(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    names = [stage.name for stage in program.stages]
    stages = parse_stages(_run(runner, stages_plan(job, disk.paths(program)), tmp_path), names)
    assert [stage.stage for stage in stages] == names
    assert all((len(stage.prefill_ns), len(stage.decode_ns)) == (3, 18) for stage in stages)
    assert all(ns > 0 for stage in stages for ns in stage.decode_ns)


def test_a_workload_that_nobody_knows_is_refused(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    plan = measure_plan(MeasureJob(program=program, protocol=PROTOCOL), disk.paths(program))
    for wrong in (plan.replace("workload prefill", "workload sing"), plan.replace("warmup 2", "warm_up 2")):
        said = json.loads(_run(runner, wrong, tmp_path)[-1])
        assert said["event"] == "error"
        assert "the plan has a" in said["message"]
