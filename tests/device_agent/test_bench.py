"""Jobs on the virtual phone by a stub runner that keeps the runner's contract."""

from pathlib import Path

import pytest
from bench_examples import generate_job, measure_job, sha256, stub_bundle
from pydantic import ValidationError

from device_agent.adb import DeadlineExceeded, Link
from device_agent.bench import Bench, CacheDiffers, PromptDoesNotFit, ProtocolTooLong
from device_agent.condition import read_condition, read_facts
from device_agent.contracts import (
    Blame,
    GenerateJob,
    Generation,
    MeasureJob,
    Measurement,
    PhoneState,
    StageSpec,
    StateSpec,
)
from device_agent.probe import probe
from device_agent.runner.output import RunnerFailed
from device_agent.runner.shelf import RunnerMismatch
from device_agent.virtual import VirtualPhone


def run(
    link: Link, tmp_path: Path, job: MeasureJob | GenerateJob, content: bytes, seconds: float = 30
) -> Measurement | Generation:
    local = tmp_path / "program.pte"
    local.write_bytes(content)
    bench = Bench(link, stub_bundle(tmp_path / "runner"), serial="phone:1", process_seconds=seconds)
    return bench.run(job, {sha256(content): local})


def test_a_measurement_has_its_blocks_and_its_condition(link: Link, tmp_path: Path) -> None:
    result = run(link, tmp_path, measure_job(), b"fine")
    assert isinstance(result, Measurement)
    assert result.virtual
    assert result.runner == "stub (ExecuTorch 1.4.1)"
    assert [block.prefill_ns for block in result.blocks] == [(10, 10), (10, 10)]
    assert result.blocks[0].decode_ns == ((1, 2, 3), (1, 2, 3))
    assert (result.memory.prefill_ns, result.memory.baseline_bytes, result.memory.peak_bytes) == ((10,), 100, 300)
    assert result.before.battery_celsius == result.after.battery_celsius == 30.9
    assert result.before.taken_at < result.after.taken_at
    assert (result.transfer.pushed_files, result.transfer.kept_files) == (2, 0)


def test_what_the_phone_has_is_not_pushed_again(link: Link, tmp_path: Path) -> None:
    run(link, tmp_path, measure_job(), b"fine")
    result = run(link, tmp_path, measure_job(), b"fine")
    assert (result.transfer.pushed_bytes, result.transfer.pushed_files, result.transfer.kept_files) == (0, 0, 2)


def test_a_program_of_blocks_pushes_only_those_the_phone_has_never_seen(link: Link, tmp_path: Path) -> None:
    def push(*contents: bytes) -> tuple[int, int]:
        names = [sha256(content) for content in contents]
        for name, content in zip(names, contents, strict=True):
            (tmp_path / name).write_bytes(content)
        stages = tuple(StageSpec(name=str(i), file=name) for i, name in enumerate(names))
        files = {name: len(content) for name, content in zip(names, contents, strict=True)}
        job = measure_job()
        program = job.program.model_copy(update={"layout": "composed", "files": files, "stages": stages})
        bench = Bench(link, stub_bundle(tmp_path / "runner"), serial="phone:1")
        result = bench.run(job.model_copy(update={"program": program}), {name: tmp_path / name for name in names})
        assert isinstance(result, Measurement)
        return result.transfer.pushed_bytes, result.transfer.kept_files

    push(b"embedding", b"conv", b"head")
    assert push(b"embedding", b"conv", b"attention", b"conv", b"head") == (len(b"attention"), 4)
    assert push(b"head", b"attention") == (0, 3)  # the runner is kept, too


def test_what_earlier_jobs_left_goes_where_storage_is_scarce(link: Link, phone: VirtualPhone, tmp_path: Path) -> None:
    home = phone.root.directory / "data/local/tmp/fulcrum"
    run(link, tmp_path, measure_job(b"old"), b"old")
    run(link, tmp_path, measure_job(b"fine"), b"fine")
    assert {path.name for path in (home / "objects").iterdir()} == {sha256(b"old"), sha256(b"fine")}
    bench = Bench(link, stub_bundle(tmp_path / "runner"), serial="phone:1", keep_free_bytes=1 << 60)
    result = bench.run(measure_job(b"fine"), {sha256(b"fine"): tmp_path / "program.pte"})
    assert isinstance(result, Measurement)
    assert [path.name for path in (home / "objects").iterdir()] == [sha256(b"fine")]
    assert (result.transfer.pushed_files, result.transfer.kept_files) == (0, 2)  # the runner stayed, too


def test_a_generation_brings_its_tokens(link: Link, tmp_path: Path) -> None:
    result = run(link, tmp_path, generate_job(), b"fine")
    assert isinstance(result, Generation)
    assert [step.token for step in result.steps] == [0, 1, 2]
    assert (result.prompt, result.prefill_ns) == ((1, 2), 5)


@pytest.mark.parametrize(
    ("content", "slug", "words"),
    [
        (b"segv", "runner-crashed", "SIGSEGV"),
        (b"killed", "out-of-memory", "memory"),
        (b"refused", "program-refused", "no such operator"),
        (b"silent", "runner-crashed", "before it was done"),
    ],
)
def test_a_program_that_fails_is_a_result_with_a_name(
    link: Link, tmp_path: Path, content: bytes, slug: str, words: str
) -> None:
    with pytest.raises(RunnerFailed, match=words) as caught:
        run(link, tmp_path, measure_job(content), content)
    fault = caught.value.as_fault()
    assert (fault.slug, fault.blame) == (slug, Blame.US)  # the Program's trial fails; the phone is well
    assert fault.advice or slug == "runner-crashed"
    assert link.shell(["echo", "alive"], 5).text == "alive\n"


def test_a_program_that_never_ends_is_stopped(link: Link, tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded):
        run(link, tmp_path, measure_job(b"slow"), b"slow", seconds=0.5)


def test_a_runner_for_another_phone_or_program_is_refused_before_anything_is_pushed(
    link: Link, phone: VirtualPhone, tmp_path: Path
) -> None:
    for bundle in (
        stub_bundle(tmp_path / "arm", abi="arm64-v8a"),
        stub_bundle(tmp_path / "old", executorch="1.0.0"),
    ):
        with pytest.raises(RunnerMismatch):
            Bench(link, bundle, serial="phone:1").run(measure_job(), {})
    assert not (phone.root.directory / "data/local/tmp/fulcrum").exists()


def test_a_job_that_cannot_be_is_refused_before_anything_is_pushed(
    link: Link, phone: VirtualPhone, tmp_path: Path
) -> None:
    bench = Bench(link, stub_bundle(tmp_path / "runner"), serial="phone:1")
    cache = StateSpec(name="keys", shape=(1, 256, 2, 16), dtype="float16", update="in_place")
    measure, generate = measure_job(), generate_job()
    stage = measure.program.stages[0].model_copy(update={"state": (cache,)})
    half = measure.program.model_copy(update={"stages": (stage,)})
    million = generate.model_copy(update={"prompt": (1,) * 1_000_000})
    long = measure.protocol.model_copy(update={"prefill_tokens": 400})
    for job, error, words in (
        (measure.model_copy(update={"program": half}), CacheDiffers, "asks for a KV cache of float32; .* float16"),
        (measure.model_copy(update={"protocol": long}), ProtocolTooLong, "the Program has 256"),
        (million, PromptDoesNotFit, "need 1000002 positions; the Program has 256"),
        (generate.model_copy(update={"prompt": (1, 64)}), PromptDoesNotFit, "vocabulary of 64"),
        (generate.model_copy(update={"prefix_tokens": 1}), RunnerMismatch, "no prefixes"),
    ):
        with pytest.raises(error, match=words):
            bench.run(job, {})
    assert not (phone.root.directory / "data/local/tmp/fulcrum").exists()
    for wrong in ({"prompt": ()}, {"prompt": (1,), "prefix_tokens": 2}):
        with pytest.raises(ValidationError):
            GenerateJob.model_validate(generate.model_dump() | wrong)


def test_the_condition_is_the_phones(link: Link, phone: VirtualPhone) -> None:
    cap = phone.root.directory / "sys/devices/system/cpu/cpufreq/policy9/scaling_max_freq"
    cap.write_text("1824000\n")
    battery = phone.root.directory / "dumpsys/battery"
    battery.write_text(battery.read_text().replace("temperature: 309", "temperature: 386"))
    condition = read_condition(link)
    assert condition.battery_celsius == 38.6
    assert condition.battery_percent == 100
    assert condition.thermal_status == 0
    assert condition.temperatures_celsius["SKIN"] == 31.8
    assert "SUBBAT" not in condition.temperatures_celsius
    assert "GPU" not in condition.temperatures_celsius
    assert condition.frequency_cap["policy0"] == 1
    assert round(condition.frequency_cap["policy9"], 2) == 0.57
    assert condition.load_1min is not None
    assert condition.memory_available_bytes == 3481220 * 1024


def test_what_cannot_be_read_is_unknown(link: Link, phone: VirtualPhone) -> None:
    root = phone.root.directory
    for name in ("dumpsys/battery", "dumpsys/thermalservice", "proc/meminfo"):
        (root / name).unlink()
    for file in root.glob("sys/devices/system/cpu/cpufreq/*/scaling_max_freq"):
        file.unlink()
    condition = read_condition(link)
    assert condition.model_dump(exclude={"taken_at", "load_1min"}) == {
        "battery_percent": None,
        "battery_celsius": None,
        "battery_mv": None,
        "charge_uah": None,
        "plugged": None,
        "charging": None,
        "thermal_status": None,
        "temperatures_celsius": {},
        "frequency_cap": {},
        "memory_available_bytes": None,
    }


def test_facts_and_probe(link: Link, phone: VirtualPhone, session_key: Path, tmp_path: Path) -> None:
    facts = read_facts(link)
    assert (facts.model, facts.manufacturer, facts.soc, facts.android) == ("SM-S921B", "samsung", "s5e9945", "14")
    assert (facts.sdk, facts.abi, facts.cores, facts.virtual) == (34, "arm64-v8a", 10, True)
    assert facts.cluster_max_khz["policy9"] == 3_207_000
    assert facts.free_bytes is not None
    seen = probe(phone.address, session_key)
    assert (seen.serial, seen.state, seen.facts) == (phone.address, PhoneState.READY, seen.facts)
    assert probe(phone.address, tmp_path / "no-key").state is PhoneState.UNREACHABLE


def test_a_phone_that_answers_something_else_is_not_ready(phone: VirtualPhone, session_key: Path) -> None:
    (phone.root.directory / "system/bin/sh").unlink()
    (phone.root.directory / "system/bin/sh").write_text("#!/bin/echo\n")
    (phone.root.directory / "system/bin/sh").chmod(0o755)
    seen = probe(phone.address, session_key)
    assert seen.state is PhoneState.UNREACHABLE
    assert seen.fault is not None
    assert "nonce" in seen.fault.message
