"""What a runner's manifest may say, what is refused, and which runner runs a Program."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench_examples import EXECUTORCH, generate_job, program, sha256, stub_bundle

from device_agent.adb import Link
from device_agent.bench import Bench
from device_agent.contracts import Generation, StateSpec
from device_agent.runner.build import HOST_ABI
from device_agent.runner.bundle import (
    ATTENTION,
    CONTRACT,
    MANIFEST,
    PREFIXES,
    RunnerBundle,
    RunnerBundleError,
    RunnerManifest,
    seal,
)
from device_agent.runner.shelf import RunnerMismatch, open_runners, pick

BODY = b"#!/bin/sh\n"


def manifest(**changes: Any) -> dict[str, Any]:
    given = {
        "id": "mine",
        "provider": "android-java",
        "abi": "arm64-v8a",
        "executorch": EXECUTORCH,
        "files": [{"name": "runner.jar", "sha256": sha256(BODY)}],
        "argv": ["app_process", "-Dlibs={dir}", "/", "Runner", "{plan}"],
        "env": {"CLASSPATH": "{dir}/runner.jar"},
    }
    return {name: value for name, value in {**given, **changes}.items() if value is not None}


def written(directory: Path, **changes: Any) -> Path:
    directory.mkdir(parents=True)
    (directory / "runner.jar").write_bytes(BODY)
    (directory / MANIFEST).write_text(json.dumps(manifest(**changes)))
    return directory


def test_a_template_says_how_a_runner_is_started(tmp_path: Path) -> None:
    bundle = RunnerBundle(written(tmp_path / "java"))
    argv, environment = bundle.manifest.command("/data/r", "plans/p")
    assert argv == ["app_process", "-Dlibs=/data/r", "/", "Runner", "plans/p"]
    assert environment == {"CLASSPATH": "/data/r/runner.jar"}
    assert bundle.manifest.contract == CONTRACT


def test_a_manifest_of_the_first_format_still_reads(tmp_path: Path) -> None:
    old = written(tmp_path / "old", argv=None, env=None, provider=None, entry="runner.jar")
    argv, environment = RunnerBundle(old).manifest.command("/data/r", "plans/p")
    assert argv == ["/data/r/runner.jar", "plans/p"]
    assert environment == {"LD_LIBRARY_PATH": "/data/r"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": [{"name": "../runner.jar", "sha256": sha256(BODY)}]}, "malformed"),
        ({"files": [{"name": "a/b", "sha256": sha256(BODY)}]}, "malformed"),
        ({"files": []}, "malformed"),
        ({"argv": ["{dir}/runner.jar"]}, "does not name {plan}"),
        ({"argv": ["{home}/runner.jar", "{plan}"]}, "unknown placeholder home"),
        ({"env": {"A=B; rm": "x"}}, "malformed"),
        ({"colour": "red"}, "malformed"),
        ({"files": [{"name": "runner.jar", "sha256": sha256(b"other")}]}, "not what the manifest names"),
        ({"files": [{"name": "gone", "sha256": sha256(BODY)}]}, "missing"),
        ({"contract": CONTRACT + 1}, f"keeps contract {CONTRACT + 1}.*speaks contract {CONTRACT}"),
    ],
)
def test_what_is_not_a_whole_bundle_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RunnerBundleError, match=words) as caught:
        RunnerBundle(written(tmp_path / "bad", **changes))
    assert caught.value.advice


def test_a_bundle_holds_its_files_itself(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(BODY)
    directory = written(tmp_path / "linked")
    (directory / "runner.jar").unlink()
    (directory / "runner.jar").symlink_to(tmp_path / "outside")
    with pytest.raises(RunnerBundleError, match="is a link"):
        RunnerBundle(directory)


def test_the_runner_is_picked_by_abi_and_version(tmp_path: Path) -> None:
    host = stub_bundle(tmp_path / "some/host")
    stub_bundle(tmp_path / "some/arm-old", abi="arm64-v8a", executorch="1.1.0")
    arm = stub_bundle(tmp_path / "installed/arm", abi="arm64-v8a")
    runners = open_runners(tmp_path / "some", tmp_path / "installed")
    assert len(runners) == 3
    wanted = program(b"fine")
    assert pick(runners, "one", HOST_ABI, wanted).id == host.id
    assert pick(runners, "one", "arm64-v8a", wanted).id == arm.id
    with pytest.raises(RunnerMismatch, match=r"one runs programs for x86_64; .* stub is for arm64-v8a"):
        pick(runners, "one", "x86_64", wanted)
    with pytest.raises(RunnerMismatch, match=r"exported by ExecuTorch 1\.4\.1.* stub has 1\.1\.0"):
        pick(open_runners(tmp_path / "some", tmp_path / "none"), "one", "arm64-v8a", wanted)


def test_a_runner_without_the_kernel_or_the_feature_is_refused_by_its_name(tmp_path: Path) -> None:
    old = stub_bundle(tmp_path / "old")
    cache = StateSpec(name="keys", shape=(1, 256, 2, 16), dtype="int8", update="in_place")
    stage = program(b"fine").stages[0].model_copy(update={"state": (cache,)})
    small = program(b"fine").model_copy(update={"stages": (stage,)})
    assert (small.kv_cache, small.state_bytes) == ("int8", 256 * 2 * 16)
    with pytest.raises(RunnerMismatch, match="stub has no fulcrum-roped-attention"):
        pick([old], "one", HOST_ABI, small)
    with pytest.raises(RunnerMismatch, match="stub has no prefixes"):
        pick([old], "one", HOST_ABI, program(b"fine"), frozenset({PREFIXES}))
    able = old.manifest.model_copy(update={"id": "able", "kernels": (ATTENTION,), "features": (PREFIXES,)})
    new = seal(old.directory, able)
    assert pick([old, new], "one", HOST_ABI, small, frozenset({PREFIXES})).id == new.id


def test_a_named_place_without_a_runner_is_an_error_even_beside_installed_ones(tmp_path: Path) -> None:
    stub_bundle(tmp_path / "installed/one")
    assert len(open_runners(None, tmp_path / "installed")) == 1
    with pytest.raises(RunnerBundleError, match="elsewhere"):
        open_runners(tmp_path / "elsewhere", tmp_path / "installed")
    with pytest.raises(RunnerBundleError, match="runners"):
        open_runners(None, tmp_path / "runners")


def test_words_and_variables_of_the_template_reach_the_process(link: Link, tmp_path: Path) -> None:
    bundle = stub_bundle(tmp_path / "runner")
    script = bundle.directory / "stub"
    told = 'echo "$1 $WHERE" > told\nshift\n'
    script.write_text(script.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{told}", 1))
    changed = bundle.manifest.model_dump() | {"argv": ["{dir}/stub", "two words; $HOME", "{plan}"]}
    changed |= {
        "env": {"WHERE": "{dir}"},
        "files": [{"name": "stub", "sha256": sha256(script.read_bytes()), "executable": True}],
    }
    (bundle.directory / MANIFEST).write_text(RunnerManifest.model_validate(changed).model_dump_json())
    altered = RunnerBundle(bundle.directory)
    (tmp_path / "program").write_bytes(b"fine")
    result = Bench(link, [altered], serial="one").run(generate_job(), {sha256(b"fine"): tmp_path / "program"})
    assert isinstance(result, Generation)
    said = link.shell(["cat", "/data/local/tmp/fulcrum/told"], 10).text
    assert said.startswith("two words; $HOME ")
    assert said.strip().endswith(f"/data/local/tmp/fulcrum/runners/{altered.id}")
