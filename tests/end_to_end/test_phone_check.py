"""`fulcrum phone test` end to end: the real server exports, the real agent runs, the virtual phone answers.

Then each way in which a phone must fail it: a damaged Program, a runner that lies, a runner of another version.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from device_agent.agent import Agent, AgentSettings
from device_agent.contracts import CheckName
from device_agent.runner.bundle import MANIFEST, RunnerBundle, RunnerFile, hash_of, seal
from device_agent.virtual import running
from server import migrate
from server.api.app import create_app
from server.api.views import SelfCheckView
from server.cli.main import application
from server.client import Client
from server.golden import golden_key
from server.services import Services
from server.settings import Settings

pytestmark = pytest.mark.timeout(900)  # the first export takes a minute of one core, and many more where all are busy
LIAR = """#!/bin/sh
"${0%/*}/fulcrum-runner" "$1" | sed -E 's/"values":\\[[^,]*/"values":[7.5/'
"""
VERSION = "1.1.0"


@dataclass(frozen=True)
class Service:
    """A server on loopback."""

    url: str
    services: Services

    def client(self) -> Client:
        return Client(self.url)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    migrate.upgrade(settings.url)
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Service(f"http://127.0.0.1:{port}", app.state.services)
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def runner(host_runner: RunnerBundle) -> RunnerBundle:
    return host_runner


@contextmanager
def attached(service: Service, runner: Path, tmp_path: Path) -> Iterator[str]:
    """A virtual phone of its own, and an agent that serves it with this runner."""
    with running(tmp_path / "phone", accept_first_key=True) as phone:
        settings = AgentSettings(
            server=service.url, phones=(phone.address,), name="bench", home=tmp_path / "agent", runner=runner
        )
        agent = Agent(settings)
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            with service.client() as client:
                client.register_phone(phone.address)
            yield phone.address
        finally:
            agent.stop()
            thread.join(60)
            assert not thread.is_alive()


def checked(service: Service, serial: str) -> tuple[SelfCheckView, int, str]:
    """What the phone's check came to, the command's exit code, and what it printed."""
    done = CliRunner().invoke(application(), ["phone", "test", serial, "--server", service.url])
    with service.client() as client:
        check = client.phone(serial).self_check
    assert check is not None, done.output
    return check, done.exit_code, done.output


def test_an_honest_phone_passes(service: Service, runner: RunnerBundle, tmp_path: Path) -> None:
    with attached(service, runner.directory, tmp_path) as serial:
        with service.client() as client:
            assert client.phone(serial).self_check is None
        check, code, said = checked(service, serial)
    assert (check.state, code) == ("passed", 0), (check, said)
    assert [step.name for step in check.steps] == list(CheckName)
    golden = next(step for step in check.steps if step.name is CheckName.GOLDEN)
    assert 0 < golden.figures["worst_difference"] <= golden.figures["bound"]  # rounded otherwise, so never equal
    assert (check.runner, check.executorch) == (runner.label, runner.manifest.executorch)
    assert "passed with native-host" in said


def test_a_damaged_program_fails(service: Service, runner: RunnerBundle, tmp_path: Path) -> None:
    (name,) = service.services.golden().program.files
    stored = service.services.artifacts.path(name)
    whole = stored.read_bytes()
    stored.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    try:
        with attached(service, runner.directory, tmp_path) as serial:
            check, code, said = checked(service, serial)
    finally:
        stored.write_bytes(whole)
    assert (check.state, check.passed, code) == ("failed", False, 1)
    assert check.fault is not None
    assert check.fault.slug == "artifact-damaged"
    assert "not passed" in said


def _copied(runner: RunnerBundle, directory: Path) -> Path:
    directory.mkdir()
    for file in runner.manifest.files:
        (directory / file.name).write_bytes((runner.directory / file.name).read_bytes())
    return directory


@pytest.fixture
def liar(runner: RunnerBundle, tmp_path: Path) -> Path:
    """The real runner behind a script that alters one logit of each row."""
    directory = _copied(runner, tmp_path / "liar")
    (directory / "liar").write_text(LIAR)
    files = (*runner.manifest.files, RunnerFile(name="liar", sha256=hash_of(directory / "liar"), executable=True))
    seal(directory, runner.manifest.model_copy(update={"files": files, "argv": ("{dir}/liar", "{plan}")}))
    return directory


def test_a_runner_that_lies_fails(service: Service, liar: Path, tmp_path: Path) -> None:
    with attached(service, liar, tmp_path) as serial:
        check, code, said = checked(service, serial)
    assert (check.state, code) == ("failed", 1)
    assert (check.steps[-1].name, check.steps[-1].ok) == (CheckName.GOLDEN, False)
    assert "from eager PyTorch's" in check.steps[-1].message
    assert "FAILED" in said


def test_a_runner_of_another_version_fails(service: Service, runner: RunnerBundle, tmp_path: Path) -> None:
    directory = _copied(runner, tmp_path / "old")
    old = runner.manifest.model_copy(update={"executorch": VERSION})
    (directory / MANIFEST).write_text(old.model_dump_json())
    with attached(service, directory, tmp_path) as serial:
        check, code, _ = checked(service, serial)
    assert (check.state, code) == ("failed", 1)
    (step,) = check.steps
    assert (step.name, step.ok) == (CheckName.RUNNER, False)
    assert f"ExecuTorch {runner.manifest.executorch}, the runner native-host has {VERSION}" in step.message


def test_runner_check_runs_a_hosts_runner_on_a_phone_made_for_the_moment(
    service: Service, runner: RunnerBundle, liar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = service.services.golden()
    kept = tmp_path / ".fulcrum/golden" / golden_key()
    kept.mkdir(parents=True)
    for name in made.program.files:
        (kept / name).write_bytes(service.services.artifacts.get(name))
    (kept / "golden.json").write_text(made.model_dump_json())
    monkeypatch.chdir(tmp_path)

    def check(bundle: Path) -> Result:
        return CliRunner().invoke(application(), ["runner", "check", str(bundle), "--home", str(tmp_path / "none")])

    honest, lying = check(runner.directory), check(liar)
    assert honest.exit_code == 0, honest.output
    assert "files are whole" in honest.output
    assert "within rounding" in honest.output
    assert lying.exit_code == 1, lying.output
    assert "FAILED" in lying.output
