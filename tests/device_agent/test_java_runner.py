"""The Java runner's own logic on the host's JVM: the agent's plans in, the agent's parsers out.

ExecuTorch's Android classes are not here; `make runner-java` compiles and dexes against them. What runs here is all
the rest: plan, chunks, state, modes, answers, failures.
"""

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bench_examples import sha256

from device_agent.contracts import GenerateJob, Program, Quantisation, StageSpec, StateSpec
from device_agent.runner.android_java import JAVA
from device_agent.runner.output import RunnerFailed, parse_generate, parse_golden, parse_measure
from device_agent.runner.plan import generate_plan, golden_plan

SUM, HEAD = sha256(b"sum"), sha256(b"head")
PATHS = {SUM: "objects/sum", HEAD: "objects/head"}
PROGRAM = Program(
    layout="composed",
    architecture=sha256(b"architecture"),
    executorch="1.4.1",
    quantisation=Quantisation(),
    vocab_size=8,
    context_length=32,
    prefill_chunk=4,
    planned_memory=0,
    files={SUM: 1, HEAD: 1},
    stages=(
        StageSpec(
            name="sum", file=SUM, takes_position=True, state=(StateSpec(name="s", shape=(1, 1), update="in_place"),)
        ),
        StageSpec(name="head", file=HEAD),
    ),
)
MEASURE = """mode measure
threads 2
chunk 4
vocab 8
context 32
prefill 6
decode 3
warmup 1
repetitions 2
stage objects/sum 1
state in_place 1 1
stage objects/head 0
"""


def logits(total: int) -> list[float]:
    """What the fake stages compute."""
    return [(total * 5 + i * 3) % 8 + 0.25 * i for i in range(8)]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classes")
    own = [path for path in (JAVA / "fulcrum").glob("*.java") if path.stem not in ("Runner", "TorchStage")]
    fake = Path(__file__).parent / "java/fulcrum/FakeRunner.java"
    command = ["javac", "-Xlint:all,-options", "-Werror", "--release", "8", "-d", str(out), *map(str, [*own, fake])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out


def run(classes: Path, tmp_path: Path, plan: str) -> tuple[list[str], list[str], int]:
    """(answers, what the stages were fed, exit code)."""
    (tmp_path / "plan").write_text(plan)
    command = ["java", "-Xint", "-Xshare:auto", "-cp", str(classes), "fulcrum.FakeRunner", str(tmp_path / "plan")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    fed = [line for line in done.stderr.splitlines() if line.startswith("fed ")]
    return done.stdout.splitlines(), fed, done.returncode


def test_golden_mode_tells_every_logit(classes: Path, tmp_path: Path) -> None:
    tokens = (1, 7, 3, 2, 5, 6, 4)
    lines, fed, code = run(classes, tmp_path, golden_plan(PROGRAM, tokens, 5, 2, PATHS))
    result = parse_golden(lines)
    assert code == 0
    assert result.logits == [logits(sum(tokens[:upto])) for upto in (5, 6, 7)] * 2
    assert len(result.feed_ns) == 6
    assert min(result.feed_ns) > 0
    assert 0 < result.baseline_bytes <= result.peak_bytes
    assert fed == ["fed 0 [1, 7, 3, 2]", "fed 4 [5]", "fed 5 [6]", "fed 6 [4]"] * 2


def test_generate_mode_is_greedy(classes: Path, tmp_path: Path) -> None:
    job = GenerateJob(program=PROGRAM, prompt=(1, 2, 3, 4, 5), new_tokens=6)
    lines, _, _ = run(classes, tmp_path, generate_plan(job, PATHS))
    _, steps = parse_generate(lines)
    total = 15
    for step in steps:
        ranked = sorted(range(8), key=logits(total).__getitem__, reverse=True)
        assert (step.token, step.runner_up) == (ranked[0], ranked[1])
        assert (step.logit, step.runner_up_logit) == (logits(total)[ranked[0]], logits(total)[ranked[1]])
        total += step.token
    assert len(steps) == 6


def test_measure_mode_repeats_the_native_runners_prompt(classes: Path, tmp_path: Path) -> None:
    lines, fed, _ = run(classes, tmp_path, MEASURE)
    block = parse_measure(lines)
    assert len(block.prefill_ns) == 2
    assert [len(samples) for samples in block.decode_ns] == [3, 3]
    x, prompt = 1, []
    for _ in range(6):  # Knuth's MMIX, in 64 bits, as in native/runner.cpp
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        prompt.append((x >> 33) % 8)
    assert fed[:2] == [f"fed 0 {prompt[:4]}", f"fed 4 {prompt[4:]}"]
    assert len(fed) == 3 * (2 + 3)
    assert fed[:5] == fed[5:10] == fed[10:]


def events(lines: list[str], kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (line for line in lines if line.startswith("{")))
    return [event for event in found if event["event"] == kind]


def greedy(total: int, count: int) -> tuple[int, int]:
    """The last of `count` greedy tokens after a sum, beginning with the choice that the sum makes."""
    token = 0
    for _ in range(count):
        ranked = logits(total)
        token = ranked.index(max(ranked))
        total += token
    return token, total


def test_further_workloads_go_back_to_their_depth(classes: Path, tmp_path: Path) -> None:
    plan = MEASURE.replace("stage objects/sum", "workload prefill 9 0\nworkload decode 10 4\nstage objects/sum")
    lines, fed, code = run(classes, tmp_path, plan)
    assert code == 0, lines
    assert len(events(lines, "first")) == 1
    repetitions = events(lines, "repetition")
    assert [event.get("workload", 0) for event in repetitions] == [0, 0, 1, 1, 2, 2]
    assert all(len(event["decode_ns"]) == 4 for event in repetitions[4:])
    (filled,) = events(lines, "filled")
    assert filled["workload"] == 2
    depth = sum(int(token) for line in fed[-15:-12] for token in re.findall(r"\d+", line.partition("[")[2]))
    last, _ = greedy(depth, 5)  # the prompt's choice, and four after it
    assert [event["token"] for event in repetitions[4:]] == [last, last]
    assert fed[-4:] == fed[-8:-4] == fed[-12:-8]
    assert fed[-4].startswith("fed 10 ")


def test_seconds_lengthen_and_caps_end_a_block(classes: Path, tmp_path: Path) -> None:
    longer = run(classes, tmp_path, MEASURE.replace("vocab", "repetition_seconds 0.2\nvocab"))[0]
    assert len(events(longer, "repetition")) > 2
    plan = MEASURE.replace("repetitions 2", "repetitions 1000000\nmax_seconds 0.2")
    capped = run(classes, tmp_path, plan)[0]
    assert 0 < len(events(capped, "repetition")) < 1_000_000


def test_the_memory_pass_tells_the_kernels_words(classes: Path, tmp_path: Path) -> None:
    lines, _, _ = run(classes, tmp_path, MEASURE.replace("vocab", "memory_ms 1\nvocab"))
    loaded, steady = events(lines, "memory")
    assert (loaded["when"], steady["when"]) == ("loaded", "steady")
    assert re.search(r"^VmRSS:\s+\d+ kB$", loaded["status"], re.MULTILINE)
    assert re.search(r"^Pss:\s+\d+ kB$", steady["smaps_rollup"], re.MULTILINE)
    (sampled,) = events(lines, "sampled")
    assert sampled["samples"] > 0
    assert sampled["peak_bytes"] > 0
    (done,) = events(lines, "done")
    assert done["cpu_ns"] > 0


def test_stages_are_timed_one_by_one(classes: Path, tmp_path: Path) -> None:
    lines, _, _ = run(classes, tmp_path, MEASURE.replace("mode measure", "mode stages"))
    told = events(lines, "stage")
    assert [event["index"] for event in told] == [0, 1]
    assert all(len(event["prefill_ns"]) == 2 and len(event["decode_ns"]) == 6 for event in told)
    assert min(ns for event in told for ns in event["decode_ns"]) > 0


def test_a_load_alone_says_that_nothing_left_the_page_cache(classes: Path, tmp_path: Path) -> None:
    lines, fed, _ = run(classes, tmp_path, MEASURE.replace("mode measure", "mode load"))
    assert [event["event"] for event in map(json.loads, lines)] == ["evicted", "loaded", "done"]
    assert events(lines, "evicted")[0]["resident"] == 1.0
    assert fed == []


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
        ("state in_place 1\n" + MEASURE, "runner-failed", "malformed line: state"),
        (MEASURE.replace("vocab 8\n", ""), "runner-failed", "incomplete"),
        (MEASURE.replace("objects/head", "objects/broken"), "runner-failed", "did not give"),
        (MEASURE.replace("objects/sum", "objects/memory"), "out-of-memory", "no memory"),
    ],
)
def test_failures_are_answers(classes: Path, tmp_path: Path, plan: str, slug: str, words: str) -> None:
    lines, _, code = run(classes, tmp_path, plan)
    assert code == 1
    with pytest.raises(RunnerFailed, match=re.escape(words)) as caught:
        parse_measure(lines)
    assert caught.value.slug == slug
    assert json.loads(lines[-1])["event"] == "error"
