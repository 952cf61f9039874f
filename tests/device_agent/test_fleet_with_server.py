"""Server, agent and virtual phone as real processes: a phone's process, then the phone itself, is killed on the way."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bench_examples import EXECUTORCH, eventually, measure_job, stub_bundle

from device_agent.contracts import MeasureJob, PhoneState, Success
from server.api.views import PhoneView
from server.client import Client
from server.queue.machine import Job, JobState
from server.services import Services
from server.settings import Settings

PATIENCE = 120.0
COMMAND = [sys.executable, "-c", "from server.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class House:
    """The three, and what a test asks of them."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self._home, self._stack = home, stack
        self.settings = Settings(home=home, port=free_port(), quarantine_seconds=0)
        self.client = stack.enter_context(Client(f"http://127.0.0.1:{self.settings.port}"))
        stub_bundle(home / "runner")
        self.start("server", "--no-worker", "--home", str(home), "--port", str(self.settings.port))
        self.until(self.client.ready)
        self.services = Services.of(self.settings)
        stack.callback(self.services.database.close)
        self._phone_port = free_port()
        self.serial = f"127.0.0.1:{self._phone_port}"
        self.phone = self.start_phone()
        self.agent = self.start(
            "agent", "--phone", self.serial, "--home", str(home / "agent"), "--runner", str(home / "runner")
        )
        self.client.register_phone(self.serial)
        self.until(lambda: self.view.state is PhoneState.READY)

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {
            "FULCRUM_SERVER": f"http://127.0.0.1:{self.settings.port}",
            "FULCRUM_QUARANTINE_SECONDS": "0",
        }
        with (self._home / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process

    def start_phone(self) -> "subprocess.Popen[bytes]":
        root = ("--root", str(self._home / "phone"), "--port", str(self._phone_port))
        return self.start("phone", "virtual", *root, "--accept-first-key")

    def until(self, condition: Callable[[], bool]) -> None:
        eventually(condition, PATIENCE)

    @property
    def view(self) -> PhoneView:
        return self.client.phone(self.serial)

    @property
    def pid(self) -> int | None:
        """The phone's process, as its agent reports it."""
        worker = self.view.worker
        return None if worker is None else worker.pid

    def enqueue(self, content: bytes) -> str:
        work = measure_job(content)
        self.services.artifacts.put(content)
        assert isinstance(work, MeasureJob)
        assert work.program.executorch == EXECUTORCH
        return self.services.queue.enqueue(work, self.serial, content.decode())

    def look(self, job: str) -> Job:
        return self.services.queue.look(job)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(tmp_path / "house", stack)


def test_a_job_survives_its_process_and_its_phone(house: House, tmp_path: Path) -> None:
    job = house.enqueue(b"slow")
    slow = tmp_path / "house/phone/data/local/tmp/fulcrum/slow.pid"
    house.until(lambda: slow.exists() and slow.read_text().strip() != "")
    job_there, first = house.view.job, house.pid
    assert job_there is not None
    assert job_there.id == job
    assert first is not None
    os.kill(first, signal.SIGKILL)
    house.until(lambda: house.look(job).attempts == 2)  # given back at once: its lease would have lasted 30 s more
    house.until(lambda: house.pid not in (None, first))

    house.phone.kill()
    house.phone.wait()
    house.until(lambda: house.view.state is PhoneState.UNREACHABLE)
    house.services.queue.cancel(job)
    house.start_phone()
    house.until(lambda: house.view.state is PhoneState.READY)
    other = house.enqueue(b"fine")
    house.until(lambda: house.look(other).final)
    found = house.look(other)
    assert (found.state, isinstance(found.outcome, Success)) == (JobState.SUCCEEDED, True)

    # a phone that has no room fails its check, is quarantined, and comes out when it has room again
    capacity = tmp_path / "house/phone/capacity_bytes"
    capacity.write_text("10")
    house.client.check_phone(house.serial)
    house.until(lambda: house.view.state is PhoneState.QUARANTINED)
    fault = house.view.fault
    assert fault is not None
    assert "storage" in fault.message
    capacity.unlink()
    house.until(lambda: house.view.state is PhoneState.READY)
    health = house.view.health
    assert health is not None
    assert health.passed
