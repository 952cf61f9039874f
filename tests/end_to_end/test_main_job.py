"""The main job through real processes: server, worker, virtual phone and agent, with two of them killed on the way."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import Processes, free_port

from device_agent.contracts import FulcrumError, PhoneState, Protocol
from device_agent.runner.bundle import RunnerBundle
from search.candidate import Phase
from search.finalists import finalists
from search.spec import Budgets, Effort, SearchSpace, SearchSpec
from server.api.views import CandidateView, CorpusFile, PhoneJob
from server.cli.summary import summarise
from server.client import Client
from server.runs import RunSpec, StageRequest, WorkState
from trainer.architecture import Yarn
from trainer.sources import Source

CANDIDATES = 4


class House(NamedTuple):
    processes: Processes
    client: Client
    home: Path
    port: int
    serial: str
    runner: RunnerBundle

    def start_server(self) -> None:
        self.processes.start("server", "server", "--home", str(self.home), "--port", str(self.port))
        self.processes.until("the server answers", self.client.ready, 60)

    def start_agent(self) -> None:
        where = ("--server", f"http://127.0.0.1:{self.port}", "--phone", self.serial)
        self.processes.start(
            "agent", "agent", *where, "--home", str(self.home / "agent"), "--runner", str(self.runner.directory)
        )

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(self.home / "fulcrum.db") as database:
            return database.execute(query).fetchall()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, host_runner: RunnerBundle) -> Iterator[House]:
    home = tmp_path_factory.mktemp("house")
    # Leases of 3 s: a killed agent's job must come back while the test waits.
    processes = Processes(home, FULCRUM_LEASE_SECONDS="3", OMP_NUM_THREADS="1")
    port, phone_port = free_port(), free_port()
    with Client(f"http://127.0.0.1:{port}") as client:
        made = House(processes, client, home, port, f"127.0.0.1:{phone_port}", host_runner)
        made.start_server()
        phone = ("--root", str(home / "phone"), "--port", str(phone_port), "--accept-first-key")
        processes.start("phone", "phone", "virtual", *phone)
        made.start_agent()
        client.register_phone(made.serial, "Virtual")
        processes.until("the phone is ready", lambda: client.phone(made.serial).state is PhoneState.READY, 60)
        yield made
        processes.end()


@pytest.fixture(scope="module")
def spec(house: House, tmp_path_factory: pytest.TempPathFactory) -> SearchSpec:
    text = tmp_path_factory.mktemp("text") / "code.txt"
    documents = Source(format="stdlib").documents()
    text.write_text("\n".join(document for document, _ in zip(documents, range(40), strict=False)))
    corpus = house.client.register_corpus("code", (CorpusFile(sha256=house.client.upload(text), format="text"),))
    return SearchSpec(
        name="killed",
        corpus=corpus.id,
        phones=(house.serial,),
        budgets=Budgets(decode_ms=1000, ttft_ms=10_000, peak_memory_mb=200),
        space=SearchSpace(width=(64,), depth=(2, 3), ffn_ratio=(1.0,), attention_share=(0.0, 0.5), kv_heads=(2,)),
        effort=Effort(candidates=CANDIDATES, batch=2, finalists=2, proxy_tokens=2000, proxy_sequence=32),
        protocol=Protocol(prefill_tokens=32, decode_tokens=8, warmup=0, repetitions=2, blocks=2),
        vocab_size=300,
        context_length=96,
        prefill_chunk=32,
    )


def _facts(candidate: CandidateView) -> object:
    """What a candidate, once it has it, must never lose or change."""
    return candidate.architecture, candidate.params, candidate.profiles


def killed_in_a_job(house: House) -> bool:
    """Kill the agent while its phone runs a job, and start it again: whether the job had to be leased once more."""
    held: list[PhoneJob] = []

    def runs() -> bool:
        job = house.client.phone(house.serial).job
        held.extend([job] if job else [])
        return bool(held)

    house.processes.until("the next job is on the phone", runs, 400)
    house.processes.kill("agent")
    house.start_agent()
    asked = f"SELECT attempts FROM jobs WHERE state = 'succeeded' AND id = '{held[0].id}'"
    house.processes.until("the job is done", lambda: bool(house.rows(asked)), 120)
    return int(str(house.rows(asked)[0][0])) > 1


@pytest.mark.timeout(1500)
def test_search_survives_kills_of_server_and_agent(house: House, spec: SearchSpec) -> None:
    client, processes = house.client, house.processes
    search = client.submit_search(spec).id

    def measured() -> list[CandidateView]:
        return [c for c in client.candidates(search) if c.profiles]

    processes.until("a candidate is measured", lambda: bool(measured()), 400)
    before = {c.number: c for c in client.candidates(search)}
    processes.kill("server")
    with pytest.raises(FulcrumError, match="no answer"):
        client.search(search)
    house.start_server()
    assert {c.number: _facts(c) for c in client.candidates(search)}.items() >= {
        number: _facts(c) for number, c in before.items() if c.profiles
    }.items()

    already = len(measured())
    for _ in range(3):  # a job that was done when the kill came proves nothing
        if killed_in_a_job(house):
            break
    processes.until("the search goes on", lambda: len(measured()) > already, 120)

    view = client.wait_for_search(search)
    assert view.state is WorkState.SUCCEEDED, view.fault
    after = client.candidates(search)
    assert [c.number for c in after] == list(range(CANDIDATES))
    assert all(c.phase is Phase.DONE for c in after), [c.fault for c in after]
    assert all(set(c.predicted) == {house.serial} for c in after[1:])
    assert len({c.architecture.hash for c in after}) == CANDIDATES
    kept = {c.number: _facts(c) for c in after}
    assert all(kept[number] == _facts(c) for number, c in before.items() if c.profiles)
    assert view.verdict is not None
    assert view.verdict.winner in view.verdict.front

    # One accepted measurement a candidate, and then another one a finalist, though one job at least was leased twice.
    race = finalists(spec, after)
    assert len(race) == spec.effort.finalists
    assert {c.number for c in after if set(c.confirmed) == {house.serial}} == set(race)
    assert {c.number for c in after if c.linked not in (None, c.program)} == set(race)
    assert f"of {len(race)} finalists" in view.verdict.why
    jobs = house.rows("SELECT number, state, attempts FROM jobs WHERE kind = 'measure' ORDER BY created_at")
    assert [(number, state) for number, state, _ in jobs] == [(n, "succeeded") for n in (*range(CANDIDATES), *race)]
    assert max(int(str(attempts)) for _, _, attempts in jobs) >= 2


def lessons(folder: Path) -> Path:
    file = folder / "lessons.jsonl"
    told = (
        f'[{{"role": "user", "content": "{n}%2="}}, {{"role": "assistant", "content": "{n % 2}"}}]' for n in range(99)
    )
    file.write_text("".join(f'{{"messages": {messages}}}\n' for messages in told))
    return file


def every_lever(lessons: str) -> tuple[StageRequest, ...]:
    """A run of seconds: what is said is nonsense, and goes all the way of what is not."""
    tasks = {"kind": "arithmetic", "levels": ["parity-3", "last-3"]}
    said = {"role": "user", "content": "{problem}"}
    recipe = {
        "name": "answers",
        "kind": "mathematics",
        "seeds": {"kind": "problems", "tasks": tasks, "count": 40},
        "steps": [{"name": "answer", "messages": [said], "sampling": {"max_tokens": 64, "temperature": 1.0}}],
        "conversation": [said, {"role": "assistant", "content": "{answer}"}],
    }
    small = {"batch": 4, "sequence": 64}
    preference = {"judge": [{"rule": "length", "words": 1}], "examiner": [{"rule": "number"}], "tutor": "teacher"}
    stages: tuple[tuple[str, int | None, dict[str, object]], ...] = (
        ("teacher", 3000, {}),
        ("pretrain", 6000, {}),
        ("extend", 2000, {"sequence": 256}),
        ("sft", 8000, {"of": "teacher", "data": [lessons], **small}),
        ("synthesise", None, {"recipe": recipe}),
        ("sft", 4000, {"replay": 0.25, **small}),
        ("merge", 2000, {"specialists": {"a": lessons, "b": lessons}, "evaluations": 2, **small}),
        ("preference", 1000, {"tasks": tasks, "problems": 20, "rounds": 1, "max_tokens": 8, **preference, **small}),
        ("rl", 1500, {"tasks": tasks, "answer": 8, "batch": 8, "samples": 4, "sequence": 48, "held_out": 4}),
        ("qat", 2000, {}),
    )
    return tuple(
        StageRequest.model_validate({"name": name, "tokens": tokens, "options": options})
        for name, tokens, options in stages
    )


@pytest.mark.timeout(1500)
def test_winner_goes_through_every_lever_and_talks_on_the_phone(house: House, tmp_path: Path) -> None:
    client = house.client
    search = client.searches()[0]
    stages = every_lever(client.upload(lessons(tmp_path)))
    request = RunSpec(search=search.id, stages=stages, prompt="def __init__(self", new_tokens=16)
    run = client.wait_for_run(client.submit_run(request).id)
    assert run.state is WorkState.SUCCEEDED, run.fault
    assert [stage.name for stage in run.stages] == [stage.name for stage in stages]
    assert all(stage.after["bits_per_byte"] < stage.before["bits_per_byte"] for stage in run.stages[:2])
    after = {stage.name: stage.after for stage in run.stages}
    assert after["synthesise"]["examples"] > 0
    assert after["preference"]["tutor/answers"] > 0
    assert {"success/parity-3", "success/last-3"} <= after["rl"].keys()
    assert run.program is not None
    assert run.program.layout == "monolithic"
    stretched = run.architecture.model_copy(update={"yarn": Yarn(factor=2.0, original=128)})
    assert run.program.architecture == stretched.hash
    assert set(run.profiles) == {house.serial}
    assert run.generation is not None
    assert run.generation.virtual
    assert len(run.generation.steps) == 16
    assert run.check is not None
    assert run.check.passed, run.check
    assert run.check.agreed + len(run.check.near_ties) == 16

    report = summarise(client, search, run, house.serial)
    assert {"winner", "front", "stages", "phone", "seconds"} <= report.keys()
    assert [b["kept"] for b in report["shipped"]["budgets"]] == [True, True, True]
    assert report["phone"]["virtual"] is True
    assert report["winner"]["architecture"] == run.architecture.model_dump(mode="json")
    assert set(report["winner"]["measurements"]) == {house.serial}
    assert len(report["front"]) == len(search.verdict.front if search.verdict else ())
    assert [stage["lever"] for stage in report["stages"]] == [2, 2, 3, 5, 4, 5, 5, 6, 7, 8]
    assert all(stage["headline"]["after"] is not None for stage in report["stages"])


def test_bad_requests_say_what_to_do_and_leave_nothing(house: House, spec: SearchSpec) -> None:
    client = house.client
    before = len(client.searches())
    client.register_phone("127.0.0.1:2", "Never seen")
    impossible = spec.model_copy(update={"budgets": Budgets(peak_memory_mb=0.001)})
    for bad, slug in (
        (impossible, "budget-out-of-reach"),
        (spec.model_copy(update={"corpus": "nothing"}), "unknown-corpus"),
        (spec.model_copy(update={"phones": ("127.0.0.1:1",)}), "unknown-phone"),
        (spec.model_copy(update={"phones": ("127.0.0.1:2",)}), "phone-not-ready"),
    ):
        with pytest.raises(FulcrumError) as raised:
            client.submit_search(bad)
        assert raised.value.slug == slug
        assert raised.value.advice
    assert len(client.searches()) == before
