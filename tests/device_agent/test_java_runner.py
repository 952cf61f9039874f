"""The Java runner's own logic on the host's JVM: the agent's plans in, the agent's parsers out.

ExecuTorch's Android classes are not here; `make runner-java` compiles and dexes against them. Under `java/` are four of
their names, for Programs that only add; what runs on top is all our own code: plan, chunks, state, workloads, modes,
memory, answers, failures.
"""

import json
import math
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bench_examples import sha256

from device_agent.contracts import GenerateJob, MeasureJob, Program, Protocol, Quantisation, StageSpec, StateSpec
from device_agent.contracts.protocol import Preset
from device_agent.runner.android_java import JAVA
from device_agent.runner.output import (
    RunnerFailed,
    parse_cold_load,
    parse_generate,
    parse_golden,
    parse_measure,
    parse_stages,
)
from device_agent.runner.plan import (
    cold_load_plan,
    generate_plan,
    golden_plan,
    measure_plan,
    memory_plan,
    stages_plan,
    sustained_plan,
)

SUM, PAIR, HEAD = sha256(b"sum"), sha256(b"pair"), sha256(b"head")
PATHS = {SUM: "objects/sum", PAIR: "objects/pair", HEAD: "objects/head"}
CONTEXT = 32
PROGRAM = Program(
    layout="composed",
    architecture=sha256(b"architecture"),
    executorch="1.4.1",
    quantisation=Quantisation(),
    vocab_size=8,
    context_length=CONTEXT,
    prefill_chunk=4,
    planned_memory=0,
    files={SUM: 1, PAIR: 1, HEAD: 1},
    stages=(
        StageSpec(
            name="sum",
            file=SUM,
            takes_position=True,
            state=(StateSpec(name="rows", shape=(1, CONTEXT, 1), update="in_place"),),
        ),
        StageSpec(name="pair", file=PAIR, state=(StateSpec(name="before", shape=(1, 1), update="returned"),)),
        StageSpec(name="head", file=HEAD),
    ),
)
NAMES = [stage.name for stage in PROGRAM.stages]
TINY = {"prefill_tokens": 6, "decode_tokens": 3, "warmup": 1, "repetitions": 2, "memory_sample_ms": 1}
DEEP = Protocol.model_validate(TINY | {"prefill_lengths": (9,), "decode_depths": (10, "full")})
MEASURE = measure_plan(MeasureJob(program=PROGRAM, protocol=Protocol.model_validate(TINY)), PATHS, threads=2)


def cut(preset: Preset) -> MeasureJob:
    """The preset, with numbers that a tiny Program can hold and a test can wait for."""
    protocol = Protocol.preset(preset)
    less: dict[str, Any] = {
        "prefill_lengths": DEEP.prefill_lengths if protocol.prefill_lengths else (),
        "decode_depths": DEEP.decode_depths if protocol.decode_depths else (),
        "warmup_seconds": protocol.warmup_seconds / 100,
        "repetition_seconds": protocol.repetition_seconds / 100,
    }
    return MeasureJob(program=PROGRAM, protocol=protocol.model_copy(update=TINY | less))


def logits(tokens: Sequence[int]) -> list[float]:
    """What the three files compute: of the sum of all tokens and the sum of all but the last, added."""
    total = 2 * sum(tokens) - tokens[-1]
    return [(total * 5 + i * 3) % 8 + 0.25 * i for i in range(8)]


def synthetic_prompt(length: int) -> list[int]:
    """Knuth's MMIX in 64 bits, its upper bits, as in native/measure.h."""
    x, prompt = 1, []
    for _ in range(length):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        prompt.append((x >> 33) % 8)
    return prompt


def continued(tokens: Sequence[int], count: int) -> list[int]:
    """The greedy continuation of `tokens`."""
    known = list(tokens)
    for _ in range(count):
        ranked = logits(known)
        known.append(ranked.index(max(ranked)))
    return known[len(tokens) :]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classes")
    sources = [*(JAVA / "fulcrum").glob("*.java"), *(Path(__file__).parent / "java").rglob("*.java")]
    command = ["javac", "-Xlint:all,-options", "-Werror", "--release", "8", "-d", str(out), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out


def run(classes: Path, tmp_path: Path, plan: str) -> tuple[list[str], list[str], int]:
    """(answers, what the stages were fed, exit code)."""
    (tmp_path / "plan").write_text(plan)
    command = ["java", "-Xint", "-Xshare:auto", "-cp", str(classes), "fulcrum.Runner", str(tmp_path / "plan")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    fed = [line for line in done.stderr.splitlines() if line.startswith("fed ")]
    return done.stdout.splitlines(), fed, done.returncode


def events(lines: list[str], kind: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_golden_mode_tells_every_logit(classes: Path, tmp_path: Path) -> None:
    tokens = (1, 7, 3, 2, 5, 6, 4)
    lines, fed, code = run(classes, tmp_path, golden_plan(PROGRAM, tokens, 5, 2, PATHS))
    result = parse_golden(lines)
    assert code == 0
    assert result.logits == [logits(tokens[:upto]) for upto in (5, 6, 7)] * 2
    assert len(result.feed_ns) == 6
    assert min(result.feed_ns) > 0
    assert 0 < result.baseline_bytes <= result.peak_bytes
    assert fed == ["fed 0 [1, 7, 3, 2]", "fed 4 [5]", "fed 5 [6]", "fed 6 [4]"] * 2


def test_every_repetition_begins_without_state(classes: Path, tmp_path: Path) -> None:
    lines, _, _ = run(classes, tmp_path, golden_plan(PROGRAM, (3, 2), 1, 2, PATHS))
    assert parse_golden(lines).logits == [logits((3,)), logits((3, 2))] * 2


def test_generate_mode_is_greedy(classes: Path, tmp_path: Path) -> None:
    job = GenerateJob(program=PROGRAM, prompt=(1, 2, 3, 4, 5), new_tokens=6)
    lines, _, _ = run(classes, tmp_path, generate_plan(job, PATHS))
    _, steps = parse_generate(lines)
    known = [1, 2, 3, 4, 5]
    for step in steps:
        scores = logits(known)
        ranked = sorted(range(8), key=scores.__getitem__, reverse=True)
        assert (step.token, step.runner_up) == (ranked[0], ranked[1])
        assert (step.logit, step.runner_up_logit) == (scores[ranked[0]], scores[ranked[1]])
        known.append(step.token)
    assert len(steps) == 6


def test_measure_mode_repeats_the_native_runners_prompt(classes: Path, tmp_path: Path) -> None:
    lines, fed, _ = run(classes, tmp_path, MEASURE)
    block = parse_measure(lines)
    assert len(block.prefill_ns) == 2
    assert [len(samples) for samples in block.decode_ns] == [3, 3]
    prompt = synthetic_prompt(6)
    decoded = [f"fed {6 + i} [{token}]" for i, token in enumerate(continued(prompt, 3))]
    assert fed == [f"fed 0 {prompt[:4]}", f"fed 4 {prompt[4:]}", *decoded] * 3


@pytest.mark.parametrize("preset", ["quick", "standard", "publication"])
def test_a_block_and_the_memory_pass_of_every_preset(preset: Preset, classes: Path, tmp_path: Path) -> None:
    job = cut(preset)
    further = job.protocol.further(CONTEXT)
    block = parse_measure(run(classes, tmp_path, measure_plan(job, PATHS))[0], further)
    assert len(block.prefill_ns) == len(block.decode_ns) >= 2
    assert block.first_prefill_ns
    assert block.cpu_ns
    assert block.memory_samples == 0
    assert [samples.workload for samples in block.further] == list(further)
    for samples in block.further:
        deep = samples.workload.kind == "decode"
        assert (samples.fill_ns is not None) == deep
        assert len(samples.decode_ns if deep else samples.prefill_ns) >= 2
        assert {len(times) for times in samples.decode_ns} == ({3} if deep else set())
    memory = parse_measure(run(classes, tmp_path, memory_plan(job, PATHS))[0], further)
    assert (len(memory.prefill_ns), memory.first_prefill_ns) == (1, None)
    assert memory.memory_samples > 0
    assert memory.sampled_peak_bytes
    for moment in (memory.loaded, memory.steady):
        assert moment is not None
        assert moment.rss_bytes
        assert moment.pss_bytes
        assert moment.private_dirty_bytes
        assert moment.swap_bytes is not None
        assert moment.file_bytes is not None


def test_a_load_alone_is_told_as_one_of_a_warm_file(classes: Path, tmp_path: Path) -> None:
    lines, fed, _ = run(classes, tmp_path, cold_load_plan(cut("publication"), PATHS))
    load = parse_cold_load(lines)
    assert (load.resident, load.cold) == (1.0, False)
    assert load.load_ns > 0
    assert [json.loads(line)["event"] for line in lines] == ["evicted", "loaded", "done"]
    assert fed == []


def test_stages_are_timed_one_by_one(classes: Path, tmp_path: Path) -> None:
    lines, fed, _ = run(classes, tmp_path, stages_plan(cut("publication"), PATHS))
    stages = parse_stages(lines, NAMES)
    assert [(len(stage.prefill_ns), len(stage.decode_ns)) for stage in stages] == [(2, 6)] * 3
    assert all(any(stage.prefill_ns) and any(stage.decode_ns) for stage in stages)
    assert len(fed) == 3 * (2 + 3)  # the warm-up is not told


def test_each_depth_is_reached_once_and_gone_back_to(classes: Path, tmp_path: Path) -> None:
    lines, fed, code = run(classes, tmp_path, measure_plan(MeasureJob(program=PROGRAM, protocol=DEEP), PATHS))
    assert code == 0, lines
    repetitions = events(lines, "repetition")
    assert [event.get("workload", 0) for event in repetitions] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [event["workload"] for event in events(lines, "filled")] == [2, 3]
    for number, depth in ((2, 10), (3, CONTEXT - 3)):
        chosen = continued(synthetic_prompt(depth), 4)  # the prompt's choice, and three after it
        assert [event["token"] for event in repetitions if event.get("workload") == number] == [chosen[-1]] * 2
        turn = [f"fed {depth + i} [{token}]" for i, token in enumerate(chosen[:3])]
        start = fed.index(turn[0])
        assert fed[start : start + 9] == turn * 3  # one warm-up, two repetitions, nothing in between


def test_seconds_lengthen_the_warm_up_and_the_block(classes: Path, tmp_path: Path) -> None:
    job = MeasureJob(program=PROGRAM, protocol=Protocol.model_validate(TINY | {"warmup_seconds": 0.5}))
    start = time.monotonic()
    warm = parse_measure(run(classes, tmp_path, measure_plan(job, PATHS))[0])
    assert time.monotonic() - start >= 0.5
    assert len(warm.prefill_ns) == 2
    start = time.monotonic()
    minute = parse_measure(run(classes, tmp_path, sustained_plan(job, PATHS, seconds=1.0))[0])
    assert time.monotonic() - start >= 1.0
    assert minute.first_prefill_ns is None


def test_a_cap_ends_a_block_after_the_repetition_in_which_it_is_over(classes: Path, tmp_path: Path) -> None:
    endless = {"repetitions": 1000, "repetition_seconds": 600.0, "max_seconds": 1e-6}
    job = MeasureJob(program=PROGRAM, protocol=DEEP.model_copy(update=endless))
    block = parse_measure(run(classes, tmp_path, measure_plan(job, PATHS))[0], DEEP.further(CONTEXT))
    assert len(block.prefill_ns) == 1
    assert [len(samples.prefill_ns or samples.decode_ns) for samples in block.further] == [1, 1, 1]


def test_a_logit_that_is_no_number_is_valid_json(classes: Path, tmp_path: Path) -> None:
    paths = PATHS | {HEAD: "objects/nan-head"}
    result = parse_golden(run(classes, tmp_path, golden_plan(PROGRAM, (1, 2), 1, 1, paths))[0])
    assert all(math.isnan(row[2]) for row in result.logits)


@pytest.mark.parametrize(
    ("plan", "slug", "words"),
    [
        (MEASURE.replace("decode 3", "decode 300"), "runner-failed", "context length"),
        (MEASURE.replace("mode measure", "mode sing"), "runner-failed", "unknown mode: sing"),
        (MEASURE + "colour red\n", "runner-failed", "does not know: colour red"),
        (MEASURE.replace("decode 3", "decode many"), "runner-failed", "malformed line: decode many"),
        (MEASURE.replace("decode 3", "decode"), "runner-failed", "malformed line: decode"),
        (MEASURE + "workload sing 1 2\n", "runner-failed", "malformed line: workload sing"),
        (MEASURE + "workload decode 10\n", "runner-failed", "malformed line: workload decode 10"),
        (MEASURE + "workload prefix 20 10\n", "runner-failed", "malformed line: workload prefix 20 10"),
        (MEASURE + "snapshots here 1000\n", "runner-failed", "does not know: snapshots"),
        (MEASURE + "state in_place float16 1 16 2 4\n", "runner-failed", "malformed line: state in_place float16"),
        (MEASURE + "max_seconds nan\n", "runner-failed", "malformed line: max_seconds nan"),
        (MEASURE + "warmup_seconds NaN\n", "runner-failed", "malformed line: warmup_seconds NaN"),
        (MEASURE + "memory_ms 0.5\n", "runner-failed", "malformed line: memory_ms"),
        (MEASURE.replace("objects/sum 1", "objects/sum 2"), "runner-failed", "malformed line: stage objects/sum 2"),
        ("state in_place 1\n" + MEASURE, "runner-failed", "malformed line: state"),
        (MEASURE.replace("vocab 8\n", ""), "runner-failed", "incomplete"),
        (MEASURE.replace("objects/head", "objects/broken"), "runner-failed", "did not give"),
        (MEASURE.replace("objects/sum", "objects/memory"), "out-of-memory", "no memory"),
        (MEASURE.replace("objects/head", "objects/refused"), "program-refused", "no such operator"),
    ],
)
def test_failures_are_answers(classes: Path, tmp_path: Path, plan: str, slug: str, words: str) -> None:
    lines, _, code = run(classes, tmp_path, plan)
    assert code == 1
    with pytest.raises(RunnerFailed, match=re.escape(words)) as caught:
        parse_measure(lines)
    assert caught.value.slug == slug
    assert json.loads(lines[-1])["event"] == "error"
