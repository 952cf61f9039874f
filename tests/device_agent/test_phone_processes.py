"""One process per phone: what is killed, hangs or vanishes is one phone's own trouble, and mends itself."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench_examples import eventually, measure_job, stub_bundle
from small_server import Book, serving

from device_agent.adb.discover import Found
from device_agent.adb.keys import Signer
from device_agent.agent import Agent, AgentSettings
from device_agent.virtual import VirtualPhone, running
from device_agent.vitals import BatteryPolicy

PATIENCE = 60.0


@contextmanager
def agent(tmp_path: Path, server: str, *phones: str, **changes: Any) -> Iterator[Agent]:
    stub_bundle(tmp_path / "runner")
    settings = {"probe_seconds": 0.2, "discover_seconds": 0.1, "token": "t0ken"} | changes
    working = Agent(
        AgentSettings(
            server=server, phones=phones, name="bench", home=tmp_path / "agent", runner=tmp_path / "runner", **settings
        )
    )
    thread = threading.Thread(target=working.run)
    thread.start()
    try:
        yield working
    finally:
        working.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def last(book: Book, serial: str) -> Any:
    """The phone in the agent's last report; an empty mapping when it is not in it."""
    phones = book.reports[-1]["phones"] if book.reports else []
    return next((phone for phone in phones if phone["serial"] == serial), {})


def state(book: Book, serial: str) -> Any:
    return last(book, serial).get("state")


def pid(book: Book, serial: str) -> int:
    found: int = last(book, serial)["worker"]["pid"]
    return found


def until(condition: Callable[[], bool]) -> None:
    eventually(condition, PATIENCE)


def slow_run(phone: VirtualPhone) -> Path:
    """The /proc directory of a run that would last a minute, once it has begun."""
    file = phone.root.directory / "data/local/tmp/fulcrum/slow.pid"
    until(lambda: file.exists() and file.read_text().strip() != "")
    return Path("/proc") / file.read_text().strip()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[VirtualPhone]:
    with running(tmp_path / "second", accept_first_key=True) as started:
        yield started


def test_a_killed_process_gives_its_job_back_and_is_replaced(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    book.add("slow", measure_job(b"slow"), b"slow")
    with serving(book) as url, agent(tmp_path, url, phone.address):
        run = slow_run(phone)
        first = pid(book, phone.address)
        os.kill(first, signal.SIGKILL)
        until(lambda: "slow" in book.results)
        assert book.results["slow"][0]["fault"]["slug"] == "phone-process-died"
        assert book.results["slow"][0]["fault"]["blame"] == "infrastructure"
        until(lambda: not run.exists())
        until(lambda: state(book, phone.address) == "ready" and pid(book, phone.address) != first)
        assert last(book, phone.address)["worker"]["restarts"] == 1
        book.add("next", measure_job(), b"fine")
        until(lambda: "next" in book.results)
    assert book.results["next"][0]["kind"] == "success"
    assert len(book.results["slow"]) == 1


def test_a_hanging_process_is_killed_while_the_other_phone_works_on(
    phone: VirtualPhone, second: VirtualPhone, tmp_path: Path
) -> None:
    book = Book()
    with serving(book) as url, agent(tmp_path, url, phone.address, second.address, job_seconds=2.0):
        until(lambda: state(book, phone.address) == "ready" == state(book, second.address))
        before = {one.address: pid(book, one.address) for one in (phone, second)}
        book.add("slow", measure_job(b"slow"), b"slow")
        until(lambda: "slow" in book.results)
        assert "did nothing for too long" in book.results["slow"][0]["fault"]["message"]
        until(lambda: any(_restarts(book, one) for one in (phone, second)))
        victim, other = (phone, second) if _restarts(book, phone) else (second, phone)
        until(lambda: state(book, victim.address) == "ready")
        assert pid(book, other.address) == before[other.address]
        assert _restarts(book, other) == 0


def _restarts(book: Book, phone: VirtualPhone) -> int:
    return int((last(book, phone.address).get("worker") or {}).get("restarts", 0))


def test_a_process_that_has_grown_makes_room_for_a_fresh_one(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    book.add("one", measure_job(), b"fine")
    with serving(book) as url, agent(tmp_path, url, phone.address, max_rss_bytes=1):
        until(lambda: "one" in book.results)
        assert book.results["one"][0]["kind"] == "success"
        until(lambda: (last(book, phone.address).get("worker") or {}).get("restarts", 0) >= 1)


def test_processes_end_with_an_agent_that_is_killed(phone: VirtualPhone, tmp_path: Path) -> None:
    stub_bundle(tmp_path / "runner")
    book = Book()
    book.add("slow", measure_job(b"slow"), b"slow")
    program = (
        "import sys; from pathlib import Path; from device_agent.agent import Agent, AgentSettings; "
        "Agent(AgentSettings(server=sys.argv[1], phones=[sys.argv[2]], name='bench', home=Path(sys.argv[3]) / 'agent', "
        "runner=Path(sys.argv[3]) / 'runner')).run()"
    )
    with serving(book) as url:
        command = [sys.executable, "-c", program, url, phone.address, str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as started:
            run = slow_run(phone)
            child = pid(book, phone.address)
            started.kill()
        until(lambda: not Path(f"/proc/{child}").exists())
        until(lambda: not run.exists())


def test_a_process_whose_agent_is_gone_without_a_signal_ends(tmp_path: Path) -> None:
    """As on a host without prctl: the pipe ends, and no word to stop came."""
    from device_agent.agent.messages import Orders

    orders = Orders(
        agent_pid=os.getpid(),
        serial="127.0.0.1:1",
        via=None,
        server="http://127.0.0.1:1",
        token=None,
        name="bench",
        incarnation="0" * 32,
        home=tmp_path,
        runner=stub_bundle(tmp_path / "runner").directory,
        key_path=tmp_path / "key",
        probe_seconds=30,
        process_seconds=30,
        job_seconds=30,
        max_rss_bytes=1 << 40,
        check_jobs=1,
        check_seconds=30,
        min_free_bytes=0,
        battery=BatteryPolicy(),
    )
    command = [sys.executable, "-m", "device_agent.agent.phone_process"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]  # the three are as they should be
        process.stdin.write(orders.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        assert b"unreachable" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(PATIENCE) == 3


def test_a_phone_that_was_away_comes_back_by_itself(tmp_path: Path) -> None:
    book = Book()
    with contextlib.ExitStack() as powered:
        phone = powered.enter_context(running(tmp_path / "phone", accept_first_key=True))
        port = int(phone.address.rpartition(":")[2])
        with serving(book) as url, agent(tmp_path, url, phone.address):
            until(lambda: state(book, phone.address) == "ready")
            process = pid(book, phone.address)
            powered.close()
            until(lambda: state(book, phone.address) == "unreachable")
            properties = tmp_path / "phone/properties"
            properties.write_text(properties.read_text().replace("[14]", "[15]"))  # an update, and so a reboot
            with running(tmp_path / "phone", port=port):
                until(lambda: state(book, phone.address) == "ready")
                book.add("one", measure_job(), b"fine")
                until(lambda: "one" in book.results)
                assert book.results["one"][0]["kind"] == "success"
                assert pid(book, phone.address) == process
                assert last(book, phone.address)["facts"]["android"] == "15"


def test_what_is_known_is_read_again_when_another_phone_answers(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    with serving(book) as url, agent(tmp_path, url, phone.address):
        until(lambda: state(book, phone.address) == "ready")
        assert last(book, phone.address)["facts"]["cluster_cores"]["policy9"] == [9]
        properties = phone.root.directory / "properties"
        serialno = last(book, phone.address)["facts"]["serialno"]
        changed = properties.read_text().replace("[SM-S921B]", "[SM-S926B]")
        scratch = properties.with_name("scratch")
        scratch.write_text(changed)
        scratch.replace(properties)
        probed = last(book, phone.address)["probed_at"]
        until(lambda: last(book, phone.address)["probed_at"] > probed)
        assert last(book, phone.address)["facts"]["model"] == "SM-S921B", "the same phone's facts are read once"
        scratch.write_text(changed.replace(serialno, "R5OTHER"))
        scratch.replace(properties)
        until(lambda: last(book, phone.address)["facts"]["model"] == "SM-S926B")


def _battery(phone: VirtualPhone, **values: int) -> None:
    file = phone.root.directory / "dumpsys/battery"
    lines = file.read_text().splitlines()
    changed = [
        next((f"  {key}: {value}" for key, value in values.items() if line.startswith(f"  {key}:")), line)
        for line in lines
    ]
    scratch = file.with_name("scratch")
    scratch.write_text("\n".join(changed) + "\n")
    scratch.replace(file)


def test_a_phone_outside_its_battery_policy_rests_and_comes_back(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    _battery(phone, level=29)
    with serving(book) as url, agent(tmp_path, url, phone.address):
        until(lambda: state(book, phone.address) == "resting")
        fault = last(book, phone.address)["fault"]
        assert (fault["slug"], "29 %" in fault["message"]) == ("battery-low", True)
        book.add("one", measure_job(), b"fine")
        _battery(phone, level=35)
        until(lambda: "35 %" in last(book, phone.address)["fault"]["message"])
        assert "from 40 % up" in last(book, phone.address)["fault"]["message"]
        _battery(phone, level=40, temperature=455)
        until(lambda: last(book, phone.address)["fault"]["slug"] == "battery-hot")
        assert (book.leased, last(book, phone.address)["health"]) == (set(), None)
        _battery(phone, level=40, temperature=419)
        until(lambda: state(book, phone.address) == "ready")
        _battery(phone, temperature=309)  # what a measurement itself waits for is lower
        until(lambda: "one" in book.results)
        assert last(book, phone.address)["fault"] is None


def test_health_is_checked_at_first_after_so_many_jobs_and_when_asked(phone: VirtualPhone, tmp_path: Path) -> None:
    book = Book()
    with serving(book) as url, agent(tmp_path, url, phone.address, check_jobs=2):
        until(lambda: last(book, phone.address).get("health") is not None)
        first = last(book, phone.address)["health"]
        assert [item["name"] for item in first["items"]] == ["storage", "space", "battery"]
        assert all(item["passed"] for item in first["items"])
        assert not (phone.root.directory / "data/local/tmp/fulcrum/health-check").exists()
        book.add("one", measure_job(), b"fine")
        book.add("two", measure_job(), b"fine")
        until(lambda: last(book, phone.address)["health"]["started_at"] != first["started_at"])
        until(lambda: {"one", "two"} == set(book.results))
        (phone.root.directory / "capacity_bytes").write_text("1000")
        book.check = (phone.address,)
        until(lambda: not all(item["passed"] for item in last(book, phone.address)["health"]["items"]))
        storage = last(book, phone.address)["health"]["items"][0]
        assert (storage["name"], storage["passed"]) == ("storage", False)
        assert state(book, phone.address) == "ready", "what follows from it is the server's to say"


def test_a_phone_that_waits_for_its_prompt_is_ready_once_it_is_accepted(tmp_path: Path) -> None:
    book = Book()
    with running(tmp_path / "phone") as phone, serving(book) as url, agent(tmp_path, url, phone.address):
        until(lambda: state(book, phone.address) == "unauthorised")
        assert "Allow USB debugging" in last(book, phone.address)["fault"]["advice"]
        key = Signer(tmp_path / "agent/adbkey").GetPublicKey()
        phone.root.keys.write_bytes(key + b"\n")
        until(lambda: state(book, phone.address) == "ready")


class Surroundings:
    """What discovery finds, for tests to set."""

    def __init__(self) -> None:
        self.found: Sequence[Found] = ()

    def __call__(self) -> Sequence[Found]:
        return self.found


def test_what_is_discovered_is_adopted_and_let_go(tmp_path: Path) -> None:
    book, around = Book(), Surroundings()
    around.found = (
        Found("R5LOCKED", "usb", "unauthorized"),
        Found("no serial at all", "adb-server", "device"),
    )
    with serving(book) as url, agent(tmp_path, url, discover=around):
        until(lambda: state(book, "R5LOCKED") == "unauthorised")
        assert "accept the prompt" in last(book, "R5LOCKED")["fault"]["advice"]
        assert last(book, "R5LOCKED")["worker"] is None
        with running(tmp_path / "phone", accept_first_key=True) as phone:
            around.found = (Found(phone.address, "adb-server", "device"),)
            until(lambda: state(book, phone.address) == "ready")
            assert last(book, phone.address)["via"] == "adb-server"
            assert last(book, "R5LOCKED") == {}
            process = pid(book, phone.address)
            around.found = ()
            rounds = len(book.reports)
            until(lambda: len(book.reports) > rounds + 20)
            assert state(book, phone.address) == "ready", "who answers is not let go, whatever discovery says"
        until(lambda: last(book, phone.address) == {})
        until(lambda: not Path(f"/proc/{process}").exists())


def test_one_phone_in_two_ways_works_in_one_of_them(phone: VirtualPhone, tmp_path: Path) -> None:
    book, around = Book(), Surroundings()
    other = phone.address.replace("127.0.0.1", "localhost")
    around.found = (Found(other, "adb-server", "device"),)
    with serving(book) as url, agent(tmp_path, url, phone.address, discover=around):
        until(lambda: last(book, other).get("fault") is not None)
        until(lambda: state(book, phone.address) == "ready")
        assert (state(book, other), last(book, other)["fault"]["slug"]) == ("unproven", "same-phone")
        assert all(
            [p["state"] for p in report["phones"]].count("ready") <= 1 for report in book.reports if report["phones"]
        )


def test_a_process_is_small_and_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; import device_agent.agent.phone_process; "
        "assert not {'torch', 'optuna', 'fastapi', 'executorch', 'sqlalchemy', 'rich', 'numpy'} & set(sys.modules); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM:')).split()[1])"
    )  # not getrusage: its maximum begins with that of the process that forked this one
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 150_000  # KiB; it was 47 MiB when this was written
