"""`fulcrum runner` as a user types it; what takes a golden Program is in tests/end_to_end/test_phone_check.py."""

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from device_agent.runner.build import RunnerBuildError
from device_agent.runner.bundle import RunnerBundleError, RunnerFile, RunnerManifest, seal
from server.cli.main import application


def call(*words: str) -> Result:
    return CliRunner().invoke(application(), ["runner", *words])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "s24"
    directory.mkdir()
    (directory / "runner").write_bytes(b"arm64")
    file = RunnerFile(name="runner", sha256=hashlib.sha256(b"arm64").hexdigest(), executable=True)
    argv = ("{dir}/runner", "{plan}")
    seal(directory, RunnerManifest(id="mine", abi="arm64-v8a", executorch="1.4.1", files=(file,), argv=argv))
    return directory


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of whoever runs the tests are none of theirs."""
    monkeypatch.chdir(tmp_path)
    for name in ("ANDROID_NDK", "ANDROID_NDK_HOME", "ANDROID_HOME", "EXECUTORCH_INSTALL", "FULCRUM_AGENT_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_a_bundle_is_installed_and_checked(tmp_path: Path, bundle: Path) -> None:
    home = str(tmp_path / "agent")
    done = call("install", str(bundle), "--home", home)
    assert done.exit_code == 0, done.output
    assert "mine (ExecuTorch 1.4.1) for arm64-v8a" in done.output
    checked = call("check", "--home", home)
    assert checked.exit_code == 0, checked.output
    assert "manifest and 1 files are whole" in checked.output
    assert "not run" in checked.output
    assert "--phone" in checked.output


def test_an_altered_bundle_is_found(tmp_path: Path, bundle: Path) -> None:
    (bundle / "runner").write_bytes(b"other")
    for words in (("check", str(bundle)), ("install", str(bundle), "--home", str(tmp_path / "agent"))):
        done = call(*words)
        assert done.exit_code == 1
        assert isinstance(done.exception, RunnerBundleError)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--provider", "android-native", "--executorch", "1.4.1"), "No Android NDK"),
        (("--provider", "android-native"), "--executorch"),
        (("--provider", "android-java"), "--aar"),
        (("--provider", "android-java", "--aar", "a.aar", "--dexer", "d8"), "--android-jar"),
        (("--provider", "ios"), "android-native and"),
    ],
)
def test_a_build_without_its_tools_says_so(words: tuple[str, ...], says: str) -> None:
    done = call("build", *words)
    assert done.exit_code != 0
    said = done.exception.message if isinstance(done.exception, RunnerBuildError) else done.output
    assert says in said
