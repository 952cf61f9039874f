"""A worker's side: claims that lapse, ledgers that refuse a zombie, and waiting for a phone; on both databases."""

import pytest
from service_examples import NOW, TurnedClock, ask, candidate, failure, measurement, profile, program, report, spec

from device_agent.contracts import (
    Blame,
    Condition,
    Fault,
    Generation,
    JobOutcome,
    LeaseResult,
    PhoneState,
    Protocol,
    Success,
    TokenStep,
    Transfer,
)
from search.candidate import Phase, Verdict
from server import events
from server.api.views import CorpusFile, CorpusSpec, PhoneRegistration
from server.errors import Cancelled, OwnershipLost, RemoteFault
from server.ledger import RunLedger, SearchLedger, SqlBlockCache
from server.ports import PhoneBench
from server.runs import Progress, RunSpec, StageRecord, TokenCheck, WorkState
from server.services import Services

GENERATION = Generation(
    program=program().hash,
    serial="one",
    virtual=True,
    prompt=(1,),
    steps=(TokenStep(token=1, logit=1.0, runner_up=2, runner_up_logit=0.5, ns=10),),
    prefill_ns=10,
    before=Condition(taken_at=NOW),
    after=Condition(taken_at=NOW),
    transfer=Transfer(pushed_bytes=0, pushed_files=0, kept_files=1, seconds=0),
)


@pytest.fixture
def search(services: Services) -> str:
    services.fleet.report("bench", report("one"))
    services.fleet.register(PhoneRegistration(serial="one"))
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    corpus, _ = services.corpora.register(CorpusSpec(name="c", files=(file,)))
    return services.searches.submit(spec(corpus.id)).id


def test_a_killed_workers_search_is_taken_up_and_the_zombie_is_refused(
    services: Services, clock: TurnedClock, search: str
) -> None:
    claimed = services.claims.claim_search("first")
    assert claimed is not None
    assert (claimed.id, claimed.spec) == (search, services.searches.view(search).spec)
    zombie = SearchLedger(services.database, search, "first", clock)
    zombie.remember(candidate(0, phase=Phase.PROPOSED))
    assert services.claims.claim_search("second") is None
    clock.turn(15)
    services.claims.renew("first")
    clock.turn(15)
    assert services.claims.claim_search("second") is None, "it was renewed"
    clock.turn(15)
    assert services.claims.claim_search("second") is not None
    with pytest.raises(OwnershipLost):
        zombie.remember(candidate(0, 1.0))
    with pytest.raises(OwnershipLost):
        zombie.progress("", 0, 0)
    with pytest.raises(OwnershipLost):
        zombie.conclude(Verdict(front=(), winner=None, budgets=(), why=""))
    with pytest.raises(OwnershipLost):
        services.claims.finish_search(search, "first", WorkState.FAILED)
    heir = SearchLedger(services.database, search, "second", clock)
    assert heir.candidates() == [candidate(0, phase=Phase.PROPOSED)]
    heir.remember(candidate(0, 1.0))
    assert heir.candidates() == [candidate(0, 1.0)]
    services.claims.finish_search(search, "second", WorkState.FAILED, failure(Blame.US).fault)
    view = services.searches.view(search)
    assert (view.state, view.fault) == (WorkState.FAILED, failure(Blame.US).fault)
    assert services.claims.claim_search("third") is None


def test_what_is_let_go_can_be_claimed_at_once(services: Services, search: str) -> None:
    services.claims.claim_search("first")
    services.claims.release("first")
    assert services.searches.view(search).state is WorkState.RUNNING
    assert services.claims.claim_search("second") is not None


def test_a_running_search_hears_that_it_shall_stop(services: Services, search: str) -> None:
    services.claims.claim_search("worker")
    ledger = SearchLedger(services.database, search, "worker")
    assert not ledger.cancelled()
    assert services.searches.cancel(search).state is WorkState.RUNNING
    assert ledger.cancelled()


def test_a_run_keeps_what_it_finds(services: Services, search: str) -> None:
    services.claims.claim_search("worker")
    SearchLedger(services.database, search, "worker").remember(candidate(4, 1.0))
    run = services.runbook.submit(RunSpec(search=search, candidate=4)).id
    claimed = services.claims.claim_run("worker")
    assert claimed is not None
    assert (claimed.id, claimed.number, claimed.search.id) == (run, 4, search)
    ledger = RunLedger(services.database, run, "worker")
    record = StageRecord(name="pretrain", state=WorkState.SUCCEEDED, after={"bits_per_byte": 2.0}, checkpoint="1")
    ledger.stage(1, record)
    ledger.progress("training", 1, 3)
    ledger.program(program())
    ledger.profile("one", profile())
    check = TokenCheck(tokens=1, agreed=1, max_logit_difference=0.0, passed=True)
    ledger.generation(GENERATION, "text", check)
    view = services.runbook.view(run)
    assert [
        StageRecord(**stage.model_dump(include=set(StageRecord.model_fields))) for stage in view.stages
    ] == ledger.stages()
    assert [stage.state for stage in view.stages] == [WorkState.QUEUED, WorkState.SUCCEEDED, WorkState.QUEUED]
    assert (view.program, view.profiles, view.generation) == (program(), {"one": profile()}, GENERATION)
    assert (view.text, view.check, view.progress.done) == ("text", check, 1)
    services.claims.finish_run(run, "worker", WorkState.SUCCEEDED)
    with pytest.raises(OwnershipLost):
        ledger.progress("", 0, 0)


def test_exported_blocks_are_remembered(services: Services) -> None:
    cache = SqlBlockCache(services.database)
    assert cache.get("k") is None
    cache.put("k", "1")
    cache.put("k", "2")
    assert cache.get("k") == "2"


class AgentInBetween:
    """Answers one job whenever the waiting port pauses."""

    def __init__(self, services: Services, *outcomes: JobOutcome) -> None:
        self.services, self.outcomes = services, list(outcomes)

    def __call__(self, _seconds: float) -> None:
        lease = self.services.queue.lease(ask("one"))
        assert lease is not None
        result = LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=self.outcomes.pop(0))
        self.services.queue.accept(lease.job_id, result)


def bench(services: Services, search: str, *outcomes: JobOutcome) -> PhoneBench:
    return PhoneBench(services.queue, lambda: False, search=search, pause=AgentInBetween(services, *outcomes))


def test_measuring_waits_and_is_asked_once(services: Services, search: str) -> None:
    first = bench(services, search, Success(result=measurement()))
    assert first.measure(program(), Protocol(), "one", 3) == measurement()
    after_restart = bench(services, search)
    assert after_restart.measure(program(), Protocol(), "one", 3) == measurement()
    with pytest.raises(IndexError):  # another number is another job, and this agent has no more answers
        after_restart.measure(program(), Protocol(), "one", 4)


def test_another_session_is_another_job_which_is_asked_once_too(services: Services, search: str) -> None:
    first, second = measurement(), measurement().model_copy(update={"run_seconds": 9.0})
    asked = bench(services, search, Success(result=first), Success(result=second))
    assert [asked.measure(program(), Protocol(), "one", 3, session) for session in (0, 1)] == [first, second]
    after_restart = bench(services, search)
    assert after_restart.measure(program(), Protocol(), "one", 3, 1) == second
    assert after_restart.measure(program(), Protocol(), "one", 3) == first


def test_generating_waits(services: Services, search: str) -> None:
    assert bench(services, search, Success(result=GENERATION)).generate(program(), (1,), 1, "one", 3) == GENERATION


def test_a_jobs_fault_comes_back_as_an_error(services: Services, search: str) -> None:
    with pytest.raises(RemoteFault) as caught:
        bench(services, search, failure(Blame.USER)).measure(program(), Protocol(), "one", 3)
    assert caught.value.as_fault() == failure(Blame.USER).fault


def test_waiting_stops_when_the_user_says_so(services: Services, search: str) -> None:
    waiting = PhoneBench(services.queue, lambda: True, search=search)
    with pytest.raises(Cancelled):
        waiting.measure(program(), Protocol(), "one", 3)
    assert services.queue.lease(ask("one")) is None


def test_a_phone_that_stays_away_fails_its_jobs_in_the_end_and_asking_again_tries_again(
    services: Services, clock: TurnedClock, search: str
) -> None:
    def pause(_seconds: float) -> None:
        clock.turn(600)
        services.fleet.report("bench", report("one", state=PhoneState.UNREACHABLE))
        services.queue.reap()

    waiting = PhoneBench(services.queue, lambda: False, search=search, pause=pause)
    with pytest.raises(RemoteFault) as caught:
        waiting.measure(program(), Protocol(), "one", 3)
    assert (caught.value.slug, caught.value.blame) == ("phone-unavailable", Blame.INFRASTRUCTURE)
    assert "phone one is unreachable" in caught.value.message
    assert "fulcrum agent" in caught.value.advice

    services.fleet.report("bench", report("one"))
    back = bench(services, search, Success(result=measurement()))
    assert back.measure(program(), Protocol(), "one", 3) == measurement()


def test_a_job_that_waits_for_its_phone_says_so_until_it_is_taken(
    services: Services, clock: TurnedClock, search: str
) -> None:
    services.claims.claim_search("worker")
    ledger = SearchLedger(services.database, search, "worker", clock)
    ledger.progress("measuring candidate 3", 3, 16)
    shown: list[str] = []
    lost = Fault(blame=Blame.PHONE, slug="unreachable", message="nothing answers", advice="Wake it.")
    answer = AgentInBetween(services, Success(result=measurement()))
    away = iter([True] * 4 + [False])

    def pause(seconds: float) -> None:
        view = services.searches.view(search).progress
        shown.append(view.message)
        assert (view.done, view.total) == (3, 16)
        clock.turn(2)
        if next(away):
            services.fleet.report("bench", report("one", state=PhoneState.UNREACHABLE, fault=lost))
        else:
            services.fleet.report("bench", report("one"))
            answer(seconds)

    waiting = PhoneBench(services.queue, lambda: False, search=search, waiting=ledger.waiting, pause=pause)
    assert waiting.measure(program(), Protocol(), "one", 3) == measurement()
    why = "waiting: phone one is unreachable: nothing answers (Wake it.)"
    assert shown == ["measuring candidate 3"] * 3 + [why] * 2
    assert services.searches.view(search).progress.message == "measuring candidate 3"


def test_a_run_shows_what_it_waits_for_and_then_where_it_is(services: Services, search: str) -> None:
    services.claims.claim_search("worker")
    SearchLedger(services.database, search, "worker").remember(candidate(4, 1.0))
    run = services.runbook.submit(RunSpec(search=search, candidate=4)).id
    services.claims.claim_run("worker")
    ledger = RunLedger(services.database, run, "worker")
    ledger.progress("measuring on one", 0, 1)
    ledger.waiting("phone one is silent")
    assert services.runbook.view(run).progress == Progress(message="waiting: phone one is silent", done=0, total=1)
    ledger.waiting(None)
    assert services.runbook.view(run).progress == Progress(message="measuring on one", done=0, total=1)


def test_events_stand_or_fall_with_their_change(services: Services, clock: TurnedClock) -> None:
    start = events.newest(services.database)

    def change_and_fail() -> None:
        with services.database.write() as session:
            events.record(session, clock(), "phone", "lost")
            raise KeyError

    with pytest.raises(KeyError):
        change_and_fail()
    services.fleet.register(PhoneRegistration(serial="kept"))
    told = events.after(services.database, start)
    assert [event.id for _, event in told] == ["kept"]
    assert events.after(services.database, told[-1][0]) == []
