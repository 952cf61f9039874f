"""The self-check on the virtual phone, by a scripted runner that keeps the contract or breaks it in one point."""

import sys
from pathlib import Path

import pytest
from bench_examples import EXECUTORCH, program, sha256

from device_agent.adb import Link
from device_agent.bench import Bench
from device_agent.contracts import CheckJob, CheckName, CheckStep, Golden, SelfCheck
from device_agent.runner.build import HOST_ABI
from device_agent.runner.bundle import RunnerBundle, RunnerFile, RunnerManifest, seal
from device_agent.runner.process import PhoneRunner

VOCAB, PREFILL = 4, 2
TOKENS = (3, 1, 2, 0, 1)


def row(upto: int) -> list[float]:
    """The logits after `upto` tokens, as the stub knows them too."""
    return [sum(TOKENS[:upto]) + 0.5 * v for v in range(VOCAB)]


# `how` is what this runner does wrong; it sleeps as long as it says to have worked, so an honest clock is honest.
RUNNER = f"""#!{sys.executable}
import json, sys, time
how = "HOW"
plan = dict(line.rstrip("\\n").partition(" ")[::2] for line in open(sys.argv[1]))
tokens, prefill = list(map(int, plan["prompt"].split())), int(plan["prefill"])
assert plan["mode"] == "golden"
def say(event, **what): print(json.dumps({{"event": event, **what}}))
if how == "refuses":
    say("error", slug="program-refused", message="no such operator"); sys.exit(1)
say("loaded", load_ns=1000, baseline_bytes=0 if how == "no-memory" else 1000)
for repetition in range(int(plan["repetitions"])):
    fed = 0
    while fed < len(tokens):
        fed = prefill if fed == 0 else fed + 1
        values = [sum(tokens[:fed]) + 0.5 * v for v in range({VOCAB})]
        ns = 1000 * fed
        if how == "one-logit-off" and fed == 4: values[2] += 0.11
        if how == "rounds": values[2] += 0.09
        if how == "nan" and fed == len(tokens): values[0] = None
        if how == "short-row": values = values[:-1]
        if how == "prefill-differs" and prefill == len(tokens): values = [0.0] * {VOCAB}
        if how == "no-clock": ns = 0
        if how == "leaping-clock": ns = 10**13
        if how == "lazy": ns = 1000
        if how == "rambling" and fed == 4: continue
        say("logits", ns=ns, values=values)
say("done", peak_bytes=10**15 if how == "absurd-memory" else 2000)
"""


def scripted(directory: Path, how: str, *, abi: str = HOST_ABI, executorch: str = EXECUTORCH) -> RunnerBundle:
    directory.mkdir()
    (directory / "runner").write_text(RUNNER.replace("HOW", how))
    file = RunnerFile(name="runner", sha256=sha256((directory / "runner").read_bytes()), executable=True)
    argv = ("{dir}/runner", "{plan}")
    return seal(directory, RunnerManifest(id="scripted", abi=abi, executorch=executorch, files=(file,), argv=argv))


def check(
    link: Link, tmp_path: Path, how: str = "honest", stored: bytes = b"fine", **runner: str
) -> tuple[SelfCheck, CheckStep]:
    """The result, and its last step."""
    rows = tuple(tuple(row(upto)) for upto in range(PREFILL, len(TOKENS) + 1))
    wanted = program(b"fine").model_copy(update={"vocab_size": VOCAB})
    job = CheckJob(program=wanted, golden=Golden(tokens=TOKENS, prefill=PREFILL, logits=rows, bound=0.1))
    (tmp_path / "program").write_bytes(stored)
    bench = Bench(link, scripted(tmp_path / "runner", how, **runner), serial="one")
    result = bench.run(job, {sha256(b"fine"): tmp_path / "program"})
    assert isinstance(result, SelfCheck)
    assert (result.serial, result.virtual, result.program) == ("one", True, wanted.hash)
    return result, result.steps[-1]


@pytest.mark.parametrize("how", ["honest", "rounds"])
def test_an_honest_phone_passes_every_step(link: Link, tmp_path: Path, how: str) -> None:
    result, _ = check(link, tmp_path, how)
    assert result.passed, result.steps
    assert [step.name for step in result.steps] == list(CheckName)
    assert all(step.message for step in result.steps)
    figures = {step.name: step.figures for step in result.steps}
    assert figures[CheckName.GOLDEN]["worst_difference"] == pytest.approx(0.09 if how == "rounds" else 0)
    assert figures[CheckName.TIMING]["prefill_few_ms"] < figures[CheckName.TIMING]["prefill_many_ms"]
    assert (result.runner, result.executorch) == (f"scripted (ExecuTorch {EXECUTORCH})", EXECUTORCH)


@pytest.mark.parametrize(
    ("how", "step", "words"),
    [
        ("refuses", CheckName.LOAD, "no such operator"),
        ("rambling", CheckName.LOAD, "fed 3 times where 4 were asked for"),
        ("one-logit-off", CheckName.GOLDEN, "0.11 from eager PyTorch's; rounding explains 0.1"),
        ("nan", CheckName.GOLDEN, "inf from eager"),
        ("short-row", CheckName.GOLDEN, "inf from eager"),
        ("prefill-differs", CheckName.GOLDEN, "from eager"),
        ("no-clock", CheckName.TIMING, "no clock"),
        ("leaping-clock", CheckName.TIMING, "no clock"),
        ("lazy", CheckName.TIMING, "A prefill of 5 tokens took 0.001 ms, one of 2 took 0.001 ms"),
        ("no-memory", CheckName.MEMORY, "read 0 bytes before"),
        ("absurd-memory", CheckName.MEMORY, "at its peak"),
    ],
)
def test_a_runner_that_breaks_one_point_fails_there(
    link: Link, tmp_path: Path, how: str, step: CheckName, words: str
) -> None:
    result, last = check(link, tmp_path, how)
    assert not result.passed
    assert (last.name, last.ok) == (step, False)
    assert words in last.message
    assert all(before.ok for before in result.steps[:-1])


def test_a_runner_of_another_version_is_refused_by_both_names(link: Link, tmp_path: Path) -> None:
    result, last = check(link, tmp_path, executorch="1.1.0")
    assert not result.passed
    assert (last.name, last.ok) == (CheckName.RUNNER, False)
    assert "ExecuTorch 1.4.1, the runner scripted has 1.1.0" in last.message
    assert (result.runner, result.executorch) == (None, None)


def test_a_runner_of_another_abi_is_refused(link: Link, tmp_path: Path) -> None:
    result, last = check(link, tmp_path, abi="arm64-v8a")
    assert (result.passed, last.name) == (False, CheckName.RUNNER)
    assert "scripted is for arm64-v8a" in last.message


def test_a_program_whose_file_is_damaged_here_never_arrives(link: Link, tmp_path: Path) -> None:
    result, last = check(link, tmp_path, stored=b"fina")
    assert (result.passed, last.name, last.ok) == (False, CheckName.PUSH, False)
    assert "damaged" in last.message


def test_a_file_that_the_phone_lost_after_the_push_is_noticed(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = PhoneRunner.push

    def push_and_rot(self: PhoneRunner, *arguments: object) -> object:
        sent = push(self, *arguments)  # type: ignore[arg-type]
        link.script('echo rot > "$1"', f"/data/local/tmp/fulcrum/objects/{sha256(b'fine')}", timeout=10)
        return sent

    monkeypatch.setattr(PhoneRunner, "push", push_and_rot)
    result, last = check(link, tmp_path)
    assert (result.passed, last.name, last.ok) == (False, CheckName.HASH, False)
    assert sha256(b"fine") in last.message


def test_a_check_that_left_a_step_out_has_not_passed(link: Link, tmp_path: Path) -> None:
    result, _ = check(link, tmp_path)
    assert not result.model_copy(update={"steps": result.steps[:-1]}).passed
    assert not result.model_copy(update={"steps": result.steps[1:]}).passed
    assert SelfCheck.model_validate_json(result.model_dump_json()) == result
