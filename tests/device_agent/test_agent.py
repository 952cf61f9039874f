"""The agent against a small server: jobs, lost leases, servers that go away, and agents that are killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench_examples import eventually, generate_job, measure_job, stub_bundle
from small_server import Book, serving

from device_agent.agent import Agent, AgentBusy, AgentSettings
from device_agent.agent.outbox import Outbox
from device_agent.contracts import Blame, Failure, Fault, LeaseResult
from device_agent.virtual import VirtualPhone


@contextmanager
def agent(tmp_path: Path, server: str, *phones: str) -> Iterator[Agent]:
    stub_bundle(tmp_path / "runner")
    settings = AgentSettings(
        server=server,
        phones=phones,
        name="bench",
        home=tmp_path / "agent",
        runner=tmp_path / "runner",
        token="t0ken",
        probe_seconds=5,
    )
    working = Agent(settings)
    thread = threading.Thread(target=working.run)
    thread.start()
    try:
        yield working
    finally:
        working.stop()
        thread.join(30)
        assert not thread.is_alive()


def pid_of_slow_run(phone: VirtualPhone) -> str:
    file = phone.root.directory / "data/local/tmp/fulcrum/slow.pid"
    eventually(lambda: file.exists() and file.read_text().strip() != "")
    return file.read_text().strip()


def test_jobs_are_leased_run_and_delivered_once(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    book.add("one", measure_job(), b"fine")
    book.add("two", generate_job(), b"fine")
    book.add("bad", measure_job(b"segv"), b"segv")
    with serving(book) as url, agent(tmp_path, url, phone.address):
        eventually(lambda: len(book.results) == 3)
        eventually(lambda: Outbox(tmp_path / "agent/outbox.db").pending() == [])
    assert {job: [outcome["kind"] for outcome in outcomes] for job, outcomes in book.results.items()} == {
        "one": ["success"],
        "two": ["success"],
        "bad": ["failure"],
    }
    assert book.results["bad"][0]["fault"]["slug"] == "runner-crashed"
    assert book.results["one"][0]["result"]["virtual"] is True
    assert book.tokens == {"Bearer t0ken"}
    (seen,) = book.reports[-1]["phones"]
    assert (seen["serial"], seen["state"], seen["facts"]["model"]) == (phone.address, "ready", "SM-S921B")


def test_an_unreachable_phone_is_reported_and_gets_no_job(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    book = Book()
    book.add("one", measure_job(), b"fine")
    with serving(book) as url, agent(tmp_path, url, nobody):
        eventually(lambda: bool(book.reports) and book.reports[-1]["phones"][0]["state"] == "unreachable")
        assert book.reports[-1]["phones"][0]["fault"]["slug"] == "phone-unreachable"
    assert book.leased == set()


@pytest.mark.parametrize("how", ["stale", "cancelled"])
def test_a_lost_lease_kills_the_run_and_drops_the_result(phone: VirtualPhone, tmp_path: Path, how: str) -> None:
    book = Book()
    book.add("slow", measure_job(b"slow"), b"slow")
    with serving(book) as url, agent(tmp_path, url, phone.address):
        pid = pid_of_slow_run(phone)
        getattr(book, how).add("slow")
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        book.add("next", measure_job(), b"fine")
        eventually(lambda: "next" in book.results)
    assert "slow" not in book.results
    assert Outbox(tmp_path / "agent/outbox.db").pending() == []


def test_a_server_that_goes_away_gets_the_result_when_it_is_back(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book(refuse_results_with=503)
    book.add("one", measure_job(), b"fine")
    with serving(book) as url:
        with agent(tmp_path, url, phone.address):
            eventually(lambda: len(Outbox(tmp_path / "agent/outbox.db").pending()) == 1)
            book.refuse_results_with = 0
            eventually(lambda: "one" in book.results)
        assert len(book.results["one"]) == 1


def test_a_result_that_the_server_cannot_read_becomes_a_failure(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book(refuse_results_with=422, refused_kinds=("success",))
    book.add("one", measure_job(), b"fine")
    with serving(book) as url, agent(tmp_path, url, phone.address):
        eventually(lambda: "one" in book.results)
    assert book.results["one"][0]["fault"]["slug"] == "server-refused"


def test_stopping_gives_the_job_back(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    book.add("slow", measure_job(b"slow"), b"slow")
    with serving(book) as url:
        with agent(tmp_path, url, phone.address):
            pid = pid_of_slow_run(phone)
        eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert book.results["slow"][0]["fault"]["slug"] == "agent-stopped"
    assert book.results["slow"][0]["fault"]["blame"] == "infrastructure"


def command(tmp_path: Path, url: str, address: str) -> list[str]:
    stub_bundle(tmp_path / "runner")
    program = (
        "import typer; from server.cli.agent import agent; app = typer.Typer(); app.command()(agent); "
        "app(prog_name='agent')"
    )
    options = ["--server", url, "--phone", address, "--home", str(tmp_path / "agent"), "--name", "bench"]
    return [sys.executable, "-c", program, *options, "--runner", str(tmp_path / "runner")]


def test_an_agent_killed_with_an_undelivered_result_delivers_it_when_it_is_back(
    phone: VirtualPhone, tmp_path: Path
) -> None:
    book = Book(refuse_results_with=503)
    book.add("one", measure_job(), b"fine")
    with serving(book) as url:
        with subprocess.Popen(command(tmp_path, url, phone.address), stderr=subprocess.DEVNULL) as first:
            eventually(
                lambda: (
                    (tmp_path / "agent/outbox.db").exists() and len(Outbox(tmp_path / "agent/outbox.db").pending()) == 1
                ),
                30,
            )
            first.kill()
        book.refuse_results_with = 0
        with subprocess.Popen(command(tmp_path, url, phone.address), stderr=subprocess.DEVNULL) as second:
            eventually(lambda: "one" in book.results, 30)
            eventually(lambda: Outbox(tmp_path / "agent/outbox.db").pending() == [])
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0
    assert [outcome["kind"] for outcome in book.results["one"]] == ["success"]


def test_a_result_of_a_job_that_another_has_by_now_is_dropped(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book(refuse_results_with=503)
    book.add("one", measure_job(), b"fine")
    with serving(book) as url, agent(tmp_path, url, phone.address):
        outbox = Outbox(tmp_path / "agent/outbox.db")
        eventually(lambda: len(outbox.pending()) == 1)
        book.stale.add("one")
        eventually(lambda: outbox.pending() == [])
    assert book.results == {}


def test_one_home_has_one_agent(phone: VirtualPhone, tmp_path: Path) -> None:
    with serving(Book()) as url, agent(tmp_path, url, phone.address), pytest.raises(AgentBusy):
        Agent(AgentSettings(server=url, phones=(), name="bench", home=tmp_path / "agent", runner=tmp_path / "runner"))


def test_artifacts_are_downloaded_once_and_damaged_ones_are_refused(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    book.add("one", measure_job(), b"other")
    with serving(book) as url, agent(tmp_path, url, phone.address):
        eventually(lambda: "one" in book.results)
    assert book.results["one"][0]["fault"]["slug"] == "artifact-damaged"
    assert [path for path in (tmp_path / "agent/artifacts").rglob("*") if path.is_file()] == []


def test_the_outbox_survives_and_keeps_the_first_outcome(tmp_path: Path) -> None:
    def result(message: str) -> LeaseResult:
        fault = Fault(blame=Blame.US, slug="x", message=message)
        return LeaseResult(epoch=1, secret="s", outcome=Failure(fault=fault))

    first = Outbox(tmp_path / "outbox.db")
    first.put("j", result("first"))
    first.put("j", result("second"))
    first.close()
    again = Outbox(tmp_path / "outbox.db")
    ((number, job_id, kept),) = again.pending()
    assert (job_id, kept) == ("j", result("first"))
    again.drop(number)
    assert again.pending() == []


def test_the_agents_room_loads_no_torch() -> None:
    program = (
        "import sys, device_agent.agent, device_agent.virtual.serve, server.cli.agent, server.cli.phone_virtual; "
        "assert not {'torch', 'optuna', 'fastapi', 'executorch', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=dict(os.environ))
