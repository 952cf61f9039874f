"""Random histories of several agents, zombies and restarts, on both databases: what always holds of the queue."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from service_examples import TurnedClock, ask, failure, measure_job, report, success
from sqlalchemy import delete, select

from device_agent.contracts import Blame, Failure, JobOutcome, Lease, LeaseHeartbeat, LeaseResult
from server import migrate
from server.api.views import PhoneRegistration
from server.database import Database
from server.errors import StaleLease, WrongAnswer
from server.fleet import Fleet
from server.queue.machine import FINAL, JobState, Policy
from server.queue.store import JobQueue
from server.settings import Settings
from server.tables import AgentRow, EventRow, JobRow, PhoneRow

SERIALS = ("one", "two")
POLICY = Policy(lease_seconds=10, attempts=3, pause_seconds=0)
RESULTS = [1.0, 2.0]  # milliseconds
OUTCOMES = st.sampled_from([*RESULTS, *(failure(blame) for blame in Blame)])


class QueueHistory(RuleBasedStateMachine):
    """Every lease ever given is kept, so that old holders (zombies) answer late, twice, and differently."""

    url: str
    leases: Bundle[Lease] = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        self.clock = TurnedClock()
        self.database = Database(self.url)
        with self.database.write() as session:
            for table in (JobRow, PhoneRow, AgentRow, EventRow):
                session.execute(delete(table))
        self.keys, self.names = itertools.count(), (f"{i:06d}" for i in itertools.count())
        self.accepted: dict[str, tuple[int, JobOutcome]] = {}
        self.epochs: dict[str, int] = {}
        self.fleet = Fleet(self.database, self.clock)
        self.restart()
        for serial in SERIALS:
            self.fleet.register(PhoneRegistration(serial=serial))
            self.submit(serial)
        self.report()

    @rule()
    def restart(self) -> None:
        """The server starts anew: nothing of it is kept but the tables."""
        self.queue = JobQueue(
            self.database, POLICY, quarantine_after=3, queue_seconds=300, clock=self.clock, ids=lambda: next(self.names)
        )

    @rule()
    def report(self) -> None:
        self.fleet.report("bench", report(*SERIALS))

    @rule(serial=st.sampled_from(SERIALS))
    def submit(self, serial: str) -> None:
        key = str(next(self.keys))
        job = self.queue.enqueue(measure_job(), serial, key)
        assert self.queue.enqueue(measure_job(), serial, key) == job

    @rule(lease=leases)
    def ask_again(self, lease: Lease) -> None:
        """A worker that retries asks for the same job."""
        before = self.queue.look(lease.job_id)
        key = self.key_of(lease.job_id)
        assert self.queue.enqueue(measure_job(), lease.serial, key) == lease.job_id
        after = self.queue.look(lease.job_id)
        outcome = before.outcome
        by_world = isinstance(outcome, Failure) and outcome.fault.blame is Blame.INFRASTRUCTURE
        if before.state is JobState.FAILED and by_world:
            assert (after.state, after.attempts, after.epoch) == (JobState.QUEUED, 0, before.epoch)
        else:
            assert after == before

    def key_of(self, job: str) -> str:
        with self.database.read() as session:
            return session.get_one(JobRow, job).dedup_key

    @rule(target=leases, serials=st.sampled_from([("one",), ("two",), SERIALS]))
    def claim(self, serials: tuple[str, ...]) -> Lease | MultipleResults[Lease]:
        lease = self.queue.lease(ask(*serials))
        if lease is None:
            return multiple()
        assert lease.serial in serials
        assert lease.epoch > self.epochs.get(lease.job_id, 0), "epochs rise"
        self.epochs[lease.job_id] = lease.epoch
        return lease

    @rule(target=leases, outcome=OUTCOMES)
    def work(self, outcome: float | Failure) -> Lease | MultipleResults[Lease]:
        """An agent that does what it should."""
        lease = self.claim(SERIALS)
        if not isinstance(lease, Lease):
            return multiple()
        self.answer(lease, outcome)
        return lease

    @rule(lease=leases)
    def beat(self, lease: Lease) -> None:
        before = self.queue.look(lease.job_id)
        holds = before.state is JobState.LEASED and before.epoch == lease.epoch
        try:
            self.queue.heartbeat(lease.job_id, LeaseHeartbeat(epoch=lease.epoch, secret=lease.secret))
        except StaleLease:
            assert not holds
        else:
            assert holds

    @rule(lease=leases)
    def answer_wrongly(self, lease: Lease) -> None:
        """A result of another phone changes nothing, whoever sends it."""
        before = self.queue.look(lease.job_id)
        result = LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=success("another"))
        with pytest.raises((StaleLease, WrongAnswer)):
            self.queue.accept(lease.job_id, result)
        assert self.queue.look(lease.job_id) == before

    @rule(lease=leases, outcome=OUTCOMES)
    def answer(self, lease: Lease, outcome: float | Failure) -> None:
        self.take(lease, outcome if isinstance(outcome, Failure) else success(lease.serial, ms=outcome))

    def take(self, lease: Lease, outcome: JobOutcome) -> None:
        before = self.queue.look(lease.job_id)
        result = LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=outcome)
        try:
            self.queue.accept(lease.job_id, result)
        except StaleLease:
            assert before.state is not JobState.LEASED or before.epoch != lease.epoch, "the holder was refused"
            return
        if before.state is JobState.LEASED:
            assert before.epoch == lease.epoch
            assert self.accepted.get(lease.job_id, (0, None))[0] < lease.epoch, "accepted twice"
            self.accepted[lease.job_id] = (lease.epoch, outcome)
        else:
            assert self.accepted[lease.job_id] == (lease.epoch, outcome), "another answer passed for a replay"
            assert self.queue.look(lease.job_id) == before

    @rule(lease=consumes(leases))
    def vanish(self, lease: Lease) -> None:
        """The agent dies with its lease."""

    @rule(lease=leases)
    def cancel(self, lease: Lease) -> None:
        self.queue.cancel(lease.job_id)

    @rule(seconds=st.sampled_from([1, 5, 11, 301]))
    def wait(self, seconds: int) -> None:
        self.clock.turn(seconds)
        self.queue.reap()

    @rule(serial=st.sampled_from(SERIALS))
    def release(self, serial: str) -> None:
        self.fleet.release(serial)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "queue"):
            return
        with self.database.read() as session:
            rows = list(session.scalars(select(JobRow)))
        leased = [row.serial for row in rows if row.state == JobState.LEASED]
        assert len(leased) == len(set(leased)), "two live leases of one phone"
        for row in rows:
            assert row.attempts <= POLICY.attempts
            assert (row.state in FINAL) == (row.finished_at is not None)
            assert (row.state == JobState.LEASED) == (row.lease_until is not None), "neither final nor claimable"
            if row.state == JobState.SUCCEEDED:
                assert self.queue.look(row.id).outcome == self.accepted[row.id][1]

    def teardown(self) -> None:
        """Left alone for long enough, every job ends."""
        if not hasattr(self, "queue"):
            return
        for _ in range(2 * POLICY.attempts):
            self.clock.turn(301)
            self.queue.reap()
        with self.database.read() as session:
            assert all(row.state in FINAL for row in session.scalars(select(JobRow)))
        self.database.close()


@pytest.fixture
def url(empty_url: str, tmp_path: Path) -> str:
    made = Settings(home=tmp_path, database_url=empty_url).url
    migrate.upgrade(made)
    return made


def test_random_histories(url: str, run_history: Callable[[type[RuleBasedStateMachine]], None]) -> None:
    run_history(type("History", (QueueHistory,), {"url": url}))


@pytest.fixture
def run_history() -> Callable[[type[RuleBasedStateMachine]], None]:
    def run(machine: type[RuleBasedStateMachine]) -> None:
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
        machine.TestCase.settings = settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=checks
        )
        machine.TestCase().runTest()

    return run
