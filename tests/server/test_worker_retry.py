"""When the world fails or kills the worker, it is tried again, but not for ever; on both databases."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from service_examples import TurnedClock, ask, candidate, failure, measure_job, measurement, program, report, spec
from starlette.testclient import TestClient

from device_agent.contracts import Blame, JobOutcome, LeaseResult, Protocol, Success
from search.candidate import Phase
from server.api.views import CorpusFile, CorpusSpec, PhoneRegistration
from server.claims import ClaimedSearch, Claims
from server.errors import RemoteFault
from server.ledger import RunLedger, SearchLedger
from server.ports import PhoneBench
from server.queue.machine import JobState
from server.queue.store import JobQueue
from server.runs import TRIES, RunSpec, StageRecord, WorkState
from server.services import Services
from server.settings import Settings
from server.worker import loop
from server.worker.telling import Telling
from trainer.stage import Outcome

_LAPSE = 30  # seconds after which a claim of a dead worker has lapsed


def a_search(services: Services) -> str:
    services.fleet.register(PhoneRegistration(serial="one"))
    services.fleet.report("bench", report("one"))
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    corpus, _ = services.corpora.register(CorpusSpec(name="c", files=(file,)))
    return services.searches.submit(spec(corpus.id)).id


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_search_that_the_world_stopped_is_tried_three_times(
    services: Services, clock: TurnedClock, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    search = a_search(services)
    attempts = services.settings.attempts
    answers: list[JobOutcome] = [failure(Blame.INFRASTRUCTURE)] * (attempts * fails) + [Success(result=measurement())]

    def agent(_seconds: float) -> None:
        clock.turn(10)
        lease = services.queue.lease(ask("one"))
        assert lease is not None
        result = LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=answers.pop(0))
        services.queue.accept(lease.job_id, result)

    def measure(claimed: ClaimedSearch, services: Services, _owner: str) -> None:
        bench = PhoneBench(services.queue, lambda: False, search=claimed.id, pause=agent)
        bench.measure(program(), Protocol(), "one", 0)

    monkeypatch.setattr(loop, "run_search", measure)
    stop = threading.Event()
    stop.set()  # pauses between the tries end at once
    worker = loop.Worker(services, stop)
    while worker.once():
        pass
    view = services.searches.view(search)
    if fails < 3:
        assert view.state is WorkState.SUCCEEDED, view.fault
        assert answers == []
    else:
        assert view.state is WorkState.FAILED
        assert view.fault == failure(Blame.INFRASTRUCTURE).fault
        assert len(answers) == 1


def kill(*_arguments: object, **_named: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Host:
    """A host whose workers are processes. We hold no connection while they are forked, which SQLite would not bear."""

    def __init__(self, settings: Settings, clock: TurnedClock) -> None:
        self.settings, self.clock = settings, clock

    @contextmanager
    def services(self) -> Iterator[Services]:
        made = Services.of(self.settings, self.clock)
        yield made
        made.database.close()

    def work(self, prepare: Callable[[pytest.MonkeyPatch], None]) -> int:
        """One piece of work in a process of its own, with what `prepare` puts in the code's place; how it ended."""
        self.clock.turn(_LAPSE)
        if (child := os.fork()) == 0:
            try:
                prepare(pytest.MonkeyPatch())
                stop = threading.Event()
                stop.set()
                loop.Worker(Services.of(self.settings, self.clock), stop).once()
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dies_before_its_claim_is_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("server.claims._tell", kill)


def dies_at_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "run_search", kill)


def dies_as_it_gives_up(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RemoteFault(failure(Blame.INFRASTRUCTURE).fault)

    patch.setattr(loop, "run_search", fail)
    patch.setattr(Claims, "retry", kill)


def dies_as_it_finishes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "run_search", lambda *_: None)
    patch.setattr(JobQueue, "cancel_for", kill)


def comes_further_and_dies(patch: pytest.MonkeyPatch) -> None:
    def run_search(claimed: ClaimedSearch, services: Services, owner: str) -> None:
        ledger = SearchLedger(services.database, claimed.id, owner)
        ledger.remember(candidate(len(ledger.candidates()), phase=Phase.PROPOSED))
        ledger.progress("exporting 1", 0, 2)
        kill()

    patch.setattr(loop, "run_search", run_search)


def remembers_nothing_new_and_dies(patch: pytest.MonkeyPatch) -> None:
    def run_search(claimed: ClaimedSearch, services: Services, owner: str) -> None:
        SearchLedger(services.database, claimed.id, owner).remember(candidate(0, phase=Phase.PROPOSED))
        kill()

    patch.setattr(loop, "run_search", run_search)


def works(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "run_search", lambda *_: None)


def a_serving_worker(settings: Settings) -> tuple[int, int, int]:
    """Its process, the end of its standard input that is ours to close, and where it says that it is at work."""
    (theirs, ours), (claimed, outlet) = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.dup2(theirs, 0)
            os.close(ours)
            patch = pytest.MonkeyPatch()
            patch.setattr("sys.stdin", os.fdopen(0))  # pytest's own cannot be read
            patch.setattr(loop, "_GOODBYE_SECONDS", 0.01)

            def hang(*_: object) -> None:
                os.write(outlet, b"!")
                time.sleep(20)  # longer than an orderly stop waits: who gets here was not stopped
                os._exit(2)

            patch.setattr(loop, "run_search", hang)
            loop.serve(settings)
        finally:
            os._exit(1)
    os.close(theirs)
    os.close(outlet)
    return child, ours, claimed


def test_a_killed_worker_counts_once_wherever_it_was_and_after_three_the_search_fails(
    settings: Settings, clock: TurnedClock
) -> None:
    host = Host(settings, clock)
    with host.services() as services:
        search = a_search(services)
    counted = [
        (dies_before_its_claim_is_written, 0),
        (dies_at_work, 1),
        (dies_as_it_gives_up, 2),
        (comes_further_and_dies, 1),
        (remembers_nothing_new_and_dies, 2),
        (dies_before_its_claim_is_written, 2),
        (dies_as_it_finishes, 3),
    ]
    for prepare, attempts in counted:
        assert host.work(prepare) == -signal.SIGKILL, prepare.__name__
        with host.services() as services:
            view = services.searches.view(search)
            assert (view.attempts, view.state.final) == (attempts, False), prepare.__name__
    assert host.work(dies_at_work) == 0, "it was claimed once more"
    with host.services() as services:
        view = services.searches.view(search)
        assert view.state is WorkState.FAILED
        assert view.fault is not None
        assert (view.fault.blame, view.fault.slug) == (Blame.INFRASTRUCTURE, "worker-killed")
        assert "3 tries" in view.fault.message
        assert view.fault.message.endswith("exporting 1"), "it says where"
        assert f"fulcrum search resume {search}" in view.fault.advice
        assert services.searches.resume(search).attempts == 0
    assert host.work(works) == 0
    with host.services() as services:
        view = services.searches.view(search)
        assert (view.state, view.fault) == (WorkState.SUCCEEDED, None)


def test_a_worker_that_is_told_to_stop_uses_up_no_attempt(settings: Settings, clock: TurnedClock) -> None:
    host = Host(settings, clock)
    with host.services() as services:
        search = a_search(services)
    for _ in range(TRIES + 1):
        child, ours, claimed = a_serving_worker(settings)
        assert os.read(claimed, 1) == b"!"
        with host.services() as services:
            assert services.searches.view(search).attempts == 1
        os.close(ours)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(claimed)
        with host.services() as services:
            assert services.searches.view(search).attempts == 0


def test_a_cancelled_search_whose_workers_die_is_cancelled(services: Services, clock: TurnedClock) -> None:
    search = a_search(services)
    for owner in ("first", "second", "third"):
        assert services.claims.claim_search(owner) is not None
        clock.turn(_LAPSE)
    services.searches.cancel(search)
    assert services.claims.claim_search("fourth") is None
    view = services.searches.view(search)
    assert (view.state, view.fault) == (WorkState.CANCELLED, None)


def test_a_run_comes_further_when_it_is_taken_up_further_on(
    services: Services, clock: TurnedClock, tmp_path: Path
) -> None:
    search = a_search(services)
    services.claims.claim_search("search")
    SearchLedger(services.database, search, "search").remember(candidate(0, 1.0))
    services.claims.finish_search(search, "search", WorkState.SUCCEEDED)
    run = services.runbook.submit(RunSpec(search=search, candidate=0)).id
    outcome = Outcome(stage="teacher", checkpoint=tmp_path, before={}, after={}, tokens=1, parameters=1, seconds=1.0)

    def attempts() -> int:
        return services.runbook.view(run).attempts

    def claimed(number: int) -> Telling:
        clock.turn(_LAPSE)
        assert services.claims.claim_run(str(number)) is not None
        records = [StageRecord(name=name) for name in ("teacher", "pretrain")]
        return Telling(records, RunLedger(services.database, run, str(number)), tmp_path, clock)

    told = claimed(1)
    told.report(0, 64, 9999, {"loss": 1.0})
    assert attempts() == 1
    told = claimed(2)
    assert attempts() == 2
    told.report(0, 640, 9999, {"loss": 1.0})
    assert attempts() == 1, "a checkpoint was saved since"
    told.report(0, 6400, 9999, {"loss": 1.0})
    told = claimed(3)
    told.report(0, 640, 9999, {"loss": 1.0})
    told.report(0, 6464, 9999, {"loss": 1.0})
    assert attempts() == 2, "what it trained beyond the checkpoint was lost before, and will be again"
    told.finished(0, outcome)
    assert attempts() == 1
    told = claimed(4)
    told.finished(0, outcome)
    assert attempts() == 2, "it was finished before"
    told.report(1, 64, 9999, {"loss": 1.0})
    assert attempts() == 1
    for number in (5, 6):
        claimed(number)
    clock.turn(_LAPSE)
    assert services.claims.claim_run("7") is None
    view = services.runbook.view(run)
    assert view.state is WorkState.FAILED
    assert view.fault is not None
    assert "stage 2 of 2: pretrain" in view.fault.message
    assert f"fulcrum run resume {run}" in view.fault.advice


def test_resuming_takes_cancelled_jobs_back_but_not_those_of_runs(client: TestClient, services: Services) -> None:
    search = a_search(services)
    services.claims.claim_search("worker")
    SearchLedger(services.database, search, "worker").remember(candidate(0, 1.0))
    run = services.runbook.submit(RunSpec(search=search, candidate=0)).id
    services.queue.enqueue(measure_job(), "one", "leased", search=search)
    lease = services.queue.lease(ask("one"))
    assert lease is not None
    others = services.queue.enqueue(measure_job(), "one", "of the run", search=search, run=run)
    waits = services.queue.enqueue(measure_job(), "one", "waits", search=search)
    assert client.post(f"/v1/searches/{search}/cancel").json()["state"] == "running"
    services.claims.finish_search(search, "worker", WorkState.CANCELLED)
    assert services.queue.look(waits).state is JobState.CANCELLED
    assert services.queue.look(lease.job_id).cancel_requested
    assert services.queue.look(others).state is JobState.QUEUED, "the search's end is not the run's"
    services.runbook.cancel(run)
    assert services.queue.look(others).state is JobState.CANCELLED

    body = client.post(f"/v1/searches/{search}/resume").json()
    assert (body["state"], body["attempts"], body["finished_at"]) == ("queued", 0, None)
    assert services.queue.look(waits).state is JobState.QUEUED
    assert not services.queue.look(lease.job_id).cancel_requested
    assert services.queue.look(others).state is JobState.CANCELLED
    assert client.post(f"/v1/searches/{search}/resume").json()["state"] == "queued", "again is no error"
    assert client.post(f"/v1/runs/{run}/resume").json()["state"] == "queued"
    assert services.queue.look(others).state is JobState.QUEUED

    services.claims.claim_search("worker")
    services.claims.finish_search(search, "worker", WorkState.SUCCEEDED)
    refused = client.post(f"/v1/searches/{search}/resume")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
    assert client.post("/v1/runs/nothing/resume").status_code == 404
