"""The command line as a user meets it: real processes; errors in words, with an exit code, and never a traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import Commands
from service_examples import candidate, report, spec
from test_serving import DEADLINE, free_port

from search.candidate import Verdict
from search.spec import SearchSpec
from server.api.views import CorpusFile, CorpusSpec, Counts, PhoneRegistration, SearchView
from server.cli.demo import anew_if_in_vain
from server.cli.household import HomeTaken, Household
from server.cli.main import application
from server.cli.watch import Bars
from server.client import Client
from server.clock import utc_now
from server.ledger import RunLedger, SearchLedger
from server.runs import MetricPoint, Progress, RunSpec, WorkState
from server.services import Services
from server.settings import Settings

COMMAND = [sys.executable, "-c", "from server.cli import main; main()"]
TOKEN = "a-token-of-the-tests"


commands = cache(Commands)


def fulcrum(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FULCRUM_")} | environment
    return commands().run(list(arguments), env)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command failed, said these words, gave advice, and showed no traceback."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr + result.stdout
    for word in words:
        assert word in result.stderr
    assert len(result.stderr.strip().splitlines()) >= 2, "no advice"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """A server that asks for a token, without a worker; gives its address."""
    port = free_port()
    env = os.environ | {"FULCRUM_TOKEN": TOKEN}
    command = [*COMMAND, "server", "--no-worker", "--home", str(home), "--port", str(port)]
    with subprocess.Popen(command, env=env) as process:
        deadline = time.monotonic() + DEADLINE
        with Client(f"http://127.0.0.1:{port}") as client:
            while not client.ready():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def test_every_command_explains_itself_with_an_example() -> None:
    def commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command

    found = dict(commands(typer.main.get_command(application()), ("fulcrum",)))
    assert len(found) > 20
    for path, command in found.items():
        assert " ".join(path) in (command.help or ""), f"{path} has no example"
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        assert all(option.help for option in options), path


def test_nobody_answers() -> None:
    refused(fulcrum("phone", "list", "--server", f"http://127.0.0.1:{free_port()}"), "no answer", "fulcrum server")
    refused(fulcrum("phone", "list", "--server", "nonsense"), "nonsense")


def test_tokens_are_asked_for(server: str) -> None:
    refused(fulcrum("phone", "list", FULCRUM_SERVER=server), "token")
    refused(fulcrum("phone", "list", FULCRUM_SERVER=server, FULCRUM_TOKEN="wrong"), "token")


def test_a_fleet_by_hand(server: str, tmp_path: Path) -> None:
    environment = {"FULCRUM_SERVER": server, "FULCRUM_TOKEN": TOKEN}
    serial = "a-long-serial-of-a-phone.example.org:5555"
    assert fulcrum("phone", "add", serial, "--name", "S24", **environment).returncode == 0
    table = fulcrum("phone", "list", **environment)
    assert serial in table.stdout  # whole, though nobody said how wide the pipe is
    listed = json.loads(fulcrum("phone", "list", "--json", **environment).stdout)
    assert [phone["serial"] for phone in listed] == [serial]
    assert json.loads(fulcrum("phone", "show", serial, **environment).stdout)["name"] == "S24"
    assert fulcrum("phone", "remove", serial, **environment).returncode == 0
    refused(fulcrum("phone", "show", serial, **environment), "no phone")
    refused(fulcrum("search", "show", "nothing", **environment), "no search nothing", "fulcrum search list")
    refused(fulcrum("search", "show", "a?b", **environment), "no search a?b")
    (tmp_path / "tiny.txt").write_text("some words")
    assert "tiny: 1 file, 0.01 kB" in fulcrum("corpus", "add", "tiny", str(tmp_path / "tiny.txt"), **environment).stdout
    for elsewhere in ("../phones", ""):
        refused(fulcrum("search", "show", elsewhere, **environment), "Not Found")
    refused(fulcrum("run", "submit", "nothing", **environment), "no search")
    refused(fulcrum("run", "cancel", "nothing", **environment), "no run")
    assert json.loads(fulcrum("search", "list", "--json", **environment).stdout) == []


def test_groups_tags_and_maintenance_by_hand(server: str) -> None:
    environment = {"FULCRUM_SERVER": server, "FULCRUM_TOKEN": TOKEN}
    one, two = "one.example.org:5555", "two.example.org:5555"
    for serial, group in ((one, "rack-a"), (two, "rack-b")):
        added = fulcrum("phone", "add", serial, "--group", group, "--tag", "s24", "--note", "n", **environment)
        assert added.returncode == 0, added.stderr
    changed = fulcrum("phone", "edit", one, "--tag", "new", "--untag", "s24", "--note", "", **environment)
    assert changed.returncode == 0, changed.stderr

    def listed(*options: str) -> list[str]:
        answer = fulcrum("phone", "list", "--json", *options, **environment)
        assert answer.returncode == 0, answer.stderr
        return [phone["serial"] for phone in json.loads(answer.stdout) if phone["serial"] in (one, two)]

    found = json.loads(fulcrum("phone", "show", one, **environment).stdout)
    assert [found[field] for field in ("group", "tags", "note")] == ["rack-a", ["new"], None]
    assert listed("--group", "rack-b") == [two]
    assert listed("--tag", "new", "--state", "unproven") == [one]
    maintained = fulcrum("phone", "maintain", one, "--reason", "new battery", **environment)
    assert "new battery" in maintained.stdout
    assert listed("--state", "maintenance") == [one]
    long = fulcrum("phone", "list", "--long", "--group", "rack-a", **environment).stdout
    assert all(word in long for word in (one, "maintenance", "rack-a", f"fulcrum phone release {one}"))
    assert fulcrum("phone", "release", one, **environment).returncode == 0
    assert listed("--state", "unproven") == [one, two]
    refused(fulcrum("phone", "check", one, **environment), "no agent serves")
    refused(fulcrum("phone", "edit", "nobody", "--group", "x", **environment), "no phone")
    refused(fulcrum("phone", "edit", one, "--group", "two words", **environment), "group")
    assert "tired" in fulcrum("phone", "list", "--state", "tired", **environment).stderr
    for serial in (one, two):
        assert fulcrum("phone", "remove", serial, **environment).returncode == 0


def test_metrics_of_a_run_by_hand(server: str, home: Path) -> None:
    services = Services.of(Settings(home=home))
    services.fleet.register(PhoneRegistration(serial="one"))
    services.fleet.report("bench", report("one"))
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    corpus, _ = services.corpora.register(CorpusSpec(name="c", files=(file,)))
    search = services.searches.submit(spec(corpus.id)).id
    services.claims.claim_search("worker")
    SearchLedger(services.database, search, "worker").remember(candidate(4, 1.0))
    services.claims.finish_search(search, "worker", WorkState.FAILED)
    run = services.runbook.submit(RunSpec(search=search, candidate=4)).id
    services.claims.claim_run("worker")
    ledger = RunLedger(services.database, run, "worker")
    for tokens, loss in ((10, 6.5), (20, 2.25)):
        ledger.trained(1, MetricPoint(tokens=tokens, at=utc_now(), values={"loss": loss}), "stage 2 of 3", 100)
    services.database.close()
    environment = {"FULCRUM_SERVER": server, "FULCRUM_TOKEN": TOKEN}
    table = fulcrum("run", "metrics", run, "--stage", "pretrain", "--csv", **environment)
    assert [line.split(",")[2::2] for line in table.stdout.splitlines()] == [
        ["tokens", "loss"],
        ["10", "6.5"],
        ["20", "2.25"],
    ], table.stderr
    shown = fulcrum("run", "show", run, **environment).stdout
    assert "Stage 1, pretrain: 20 tokens" in shown
    assert "█▁" in shown
    refused(fulcrum("run", "metrics", run, "--stage", "ptq", **environment), "no stage ptq", "0 teacher, 1 pretrain")


def test_discovery_asks_no_server() -> None:
    found = fulcrum("phone", "discover", "--json")
    assert found.returncode == 0, found.stderr
    assert isinstance(json.loads(found.stdout), list)
    assert fulcrum("phone", "discover").returncode == 0


def test_an_agent_without_phones_is_refused(tmp_path: Path) -> None:
    refused(fulcrum("agent", "--home", str(tmp_path / "agent")), "no phones", "--discover")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"[1]", "JSON object"),
        (b'{"budgets": 3}', "budgets"),
        (b'{"budgets": {"ttft_ms": NaN}}', "ttft_ms"),
        (b'{"space": {"operators": ["mamba"]}}', "space.operators.0"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_malformed_specs(tmp_path: Path, content: bytes, word: str) -> None:
    spec = tmp_path / "spec.json"
    spec.write_bytes(content)
    refused(fulcrum("search", "submit", str(spec), "--decode-ms", "1", "--candidates", "2"), word)


def test_what_cannot_be_is_said_in_words(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("not a directory")
    inside = str(taken / "home")
    refused(fulcrum("server", "--home", inside, "--port", "0"), inside)
    refused(fulcrum("server", "--port", "99999", "--home", str(tmp_path)), "port")
    refused(fulcrum("server", "--host", "0.0.0.0", "--home", str(tmp_path)), "token")
    refused(fulcrum("db", "upgrade", "--home", str(tmp_path), FULCRUM_DATABASE_URL="foo://bar"), "foo")
    nobody = f"postgresql://nobody@127.0.0.1:{free_port()}/fulcrum"
    refused(fulcrum("db", "upgrade", "--home", str(tmp_path), FULCRUM_DATABASE_URL=nobody), "refused")
    refused(fulcrum("demo", "--home", inside), inside)
    refused(fulcrum("demo", "--home", str(tmp_path / "demo"), "--decode-ms", "-1"), "decode_ms")
    refused(fulcrum("demo", "--home", str(tmp_path / "demo"), "--summary", str(tmp_path)), str(tmp_path))


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused(fulcrum("server", "--home", str(tmp_path / "home"), "--port", str(port)), f"127.0.0.1:{port}")
    refused(
        fulcrum("server", "--home", str(tmp_path / "home"), "--host", "nowhere.invalid", FULCRUM_TOKEN=TOKEN), "nowhere"
    )
    assert not (tmp_path / "home").exists()


def view_of(spec: SearchSpec, name: str, state: WorkState, verdict: Verdict | None = None) -> SearchView:
    return SearchView(
        id=name,
        name="demo",
        state=state,
        spec=spec,
        created_at=utc_now(),
        started_at=None,
        finished_at=None,
        progress=Progress(message="measuring [7]"),
        verdict=verdict,
        fault=None,
        attempts=1,
        counts=Counts(done=2),
    )


def test_progress_is_told_in_lines_where_no_bar_can_move(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for forced in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(forced, raising=False)
    with Bars("search") as bars:
        for _ in range(3):
            bars.search(view_of(SearchSpec(corpus="c", phones=("p",)), "s", WorkState.RUNNING))
    assert capsys.readouterr().out.count("demo: measuring [7] (2 of 16)\n") == 1


@pytest.mark.parametrize("winner", [None, 3])
def test_a_demo_whose_search_found_no_winner_searches_anew(winner: int | None) -> None:
    spec = SearchSpec(corpus="c", phones=("p",))
    keys: list[str] = []

    def submit(asked: SearchSpec, key: str) -> SearchView:
        """The first time, what an earlier demo left; then a new search."""
        keys.append(key)
        first = len(keys) == 1
        verdict = Verdict(front=(), winner=winner, budgets=(), why="") if first else None
        return view_of(asked, key, WorkState.SUCCEEDED if first else WorkState.QUEUED, verdict)

    assert anew_if_in_vain(submit, spec).id == keys[-1]
    assert len(set(keys)) == (2 if winner is None else 1)


def test_one_demo_to_a_home(tmp_path: Path) -> None:
    with Household(tmp_path / "demo"), pytest.raises(HomeTaken, match="already"):
        Household(tmp_path / "demo", fresh=True)
    (tmp_path / "demo" / "artifacts").mkdir()
    with Household(tmp_path / "demo", fresh=True):
        assert {path.name for path in (tmp_path / "demo").iterdir()} == {"demo.lock", "logs"}


def test_a_fresh_demo_deletes_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(HomeTaken, match="no demo"):
        Household(tmp_path, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_server_that_is_told_to_end_takes_its_worker_along(tmp_path: Path) -> None:
    port = free_port()
    with subprocess.Popen([*COMMAND, "server", "--home", str(tmp_path), "--port", str(port)]) as process:
        with Client(f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + DEADLINE
            while not client.ready():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        worker = _child_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert not Path(f"/proc/{worker}").exists()


def _child_of(pid: int) -> int:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    assert len(children) == 1, children
    return children[0]


def test_a_pools_process_whose_parent_went_meanwhile_ends() -> None:
    code = "from server.worker.pool import _begin; _begin(parent=1 << 30); print('still here')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
