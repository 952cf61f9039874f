"""The server as a process: live events that resume, an end that waits for nobody, and SIGKILL in between."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from service_examples import report

from device_agent.contracts import Blame, FulcrumError
from search.spec import SearchSpec
from server.api.views import CorpusFile
from server.client import Client, Unreachable
from server.runs import WorkState

DEADLINE = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A server in a process of its own, over a home that outlives it."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        code = "from server.serving import serve; from server.settings import Settings; serve(Settings())"
        env = {**os.environ, "FULCRUM_HOME": str(self.home), "FULCRUM_PORT": str(self.port)}
        self.process = subprocess.Popen([sys.executable, "-c", code], env=env)
        begun = time.monotonic()
        with Client(self.url) as client:
            while not client.ready():
                assert self.process.poll() is None, "the server ended at its start"
                assert time.monotonic() - begun < DEADLINE
                time.sleep(0.05)

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path / "home")
    made.start()
    yield made
    made.process.kill()
    made.process.wait()


def read_events(lines: Iterator[str], count: int) -> list[tuple[int, dict[str, Any]]]:
    """The next events of a stream."""
    found: list[tuple[int, dict[str, Any]]] = []
    data: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "data":
            data = json.loads(value)
        elif name == "id":
            found.append((int(value), data))
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {found}")


def stream(url: str, **request: Any) -> Any:
    return httpx2.stream("GET", f"{url}/v1/events", timeout=DEADLINE, **request)


def test_events_come_live_and_resume_after_the_server_was_killed(server: Process) -> None:
    with Client(server.url) as client, stream(server.url) as live:
        assert live.headers["content-type"].startswith("text/event-stream")
        lines = live.iter_lines()
        assert next(lines).startswith(":")
        client.register_phone("one")
        client.register_phone("two")
        (seq, first), (later, second) = read_events(lines, 2)
    assert (first["type"], first["id"]) == ("phone", "one")
    assert second["id"] == "two"
    assert later > seq
    server.stop(signal.SIGKILL)
    with Client(server.url) as client, pytest.raises(Unreachable, match="no answer"):
        client.phones()
    server.start()
    with stream(server.url, headers={"last-event-id": str(seq)}) as resumed:
        assert read_events(resumed.iter_lines(), 1) == [(later, second)]
    with stream(server.url, params={"after": 0}) as whole:
        assert read_events(whole.iter_lines(), 2) == [(seq, first), (later, second)]


def test_an_open_stream_does_not_hold_the_server_back(server: Process) -> None:
    with stream(server.url) as live:
        lines = live.iter_lines()
        next(lines)
        begun = time.monotonic()
        server.stop(signal.SIGTERM)
        assert time.monotonic() - begun < 4
        assert list(lines) is not None


def test_the_client_goes_the_whole_way(server: Process, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("def f(x):\n    return x\n")
    with Client(server.url) as client:
        assert client.register_phone("one", name="S24", tags=("desk",)).registered
        assert client.phone("one").name == "S24"
        name = client.upload(file)
        assert client.upload(file) == name
        corpus = client.register_corpus("code", (CorpusFile(sha256=name, format="text"),))
        assert client.corpora() == [corpus]
        spec = SearchSpec(corpus=corpus.id, phones=("one",))
        check_error(lambda: client.submit_search(spec, key="k"), "phone-not-ready")
        agent = httpx2.put(f"{server.url}/v1/agents/bench", json=report("one").model_dump(mode="json"))
        assert agent.is_success, agent.text
        search = client.submit_search(spec, key="k")
        assert client.submit_search(spec, key="k").id == search.id
        assert client.candidates(search.id) == []
        seen: list[WorkState] = []
        client.cancel_search(search.id)
        done = client.wait_for_search(search.id, lambda view: seen.append(view.state))
        assert (done.state, seen) == (WorkState.CANCELLED, [WorkState.CANCELLED])
        assert [view.id for view in client.searches()] == [search.id]
        check_error(lambda: client.submit_search(SearchSpec(corpus="no", phones=("one",))), "unknown-corpus")
        check_error(lambda: client.run("no"), "not-found")
        client.remove_phone("one")
        assert [(phone.serial, phone.registered) for phone in client.phones()] == [("one", False)]


def check_error(call: Callable[[], object], slug: str) -> None:
    with pytest.raises(FulcrumError) as caught:
        call()
    assert (caught.value.slug, caught.value.blame) == (slug, Blame.USER)
    assert caught.value.advice
