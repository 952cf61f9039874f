"""The job's state machine alone: clock, secrets and policy are arguments."""

from datetime import timedelta

import pytest
from service_examples import NOW, failure, success

from device_agent.contracts import Blame, Failure
from server.errors import StaleLease
from server.queue import machine
from server.queue.machine import FINAL, Job, JobState, Policy

POLICY = Policy(lease_seconds=30, attempts=3, pause_seconds=2)


def leased(job: Job | None = None, secret: str = "s") -> Job:
    job = job or machine.queued(NOW)
    return machine.lease(job, "bench", secret, job.not_before, POLICY)


def test_a_lease_bumps_the_epoch_and_keeps_only_the_secrets_hash() -> None:
    job = leased()
    assert (job.state, job.epoch, job.attempts) == (JobState.LEASED, 1, 1)
    assert job.lease_until == NOW + timedelta(seconds=30)
    assert job.secret_hash is not None
    assert job.secret_hash != "s"


def test_a_job_that_waits_or_is_held_cannot_be_leased() -> None:
    with pytest.raises(ValueError, match="leased"):
        machine.lease(leased(), "other", "t", NOW, POLICY)
    later = machine.queued(NOW + timedelta(seconds=1))
    with pytest.raises(ValueError, match="before"):
        machine.lease(later, "other", "t", NOW, POLICY)


@pytest.mark.parametrize(("epoch", "secret"), [(1, "wrong"), (0, "s"), (2, "s"), (1, "")])
def test_only_the_holder_is_heard(epoch: int, secret: str) -> None:
    with pytest.raises(StaleLease):
        machine.heartbeat(leased(), epoch, secret, NOW, POLICY)
    with pytest.raises(StaleLease):
        machine.accept(leased(), epoch, secret, success(), NOW, POLICY)


def test_a_heartbeat_extends_from_now() -> None:
    beaten = machine.heartbeat(leased(), 1, "s", NOW + timedelta(seconds=20), POLICY)
    assert beaten.lease_until == NOW + timedelta(seconds=50)
    assert machine.expire(beaten, NOW + timedelta(seconds=49), POLICY) == beaten


def test_an_answer_is_taken_once_and_its_replay_changes_nothing() -> None:
    done = machine.accept(leased(), 1, "s", success(), NOW, POLICY)
    assert (done.state, done.outcome) == (JobState.SUCCEEDED, success())
    assert machine.accept(done, 1, "s", success(), NOW + timedelta(1), POLICY) == done
    with pytest.raises(StaleLease):
        machine.accept(done, 1, "s", success(ms=2), NOW, POLICY)


@pytest.mark.parametrize("blame", [Blame.USER, Blame.US])
def test_what_another_attempt_cannot_mend_fails_at_once(blame: Blame) -> None:
    assert machine.accept(leased(), 1, "s", failure(blame), NOW, POLICY).state is JobState.FAILED


@pytest.mark.parametrize("blame", [Blame.PHONE, Blame.INFRASTRUCTURE])
def test_what_another_attempt_may_mend_is_tried_with_growing_pauses(blame: Blame) -> None:
    job = leased()
    for attempt in (1, 2):
        job = machine.accept(job, attempt, "s", failure(blame), NOW, POLICY)
        assert (job.state, job.not_before) == (JobState.QUEUED, NOW + timedelta(seconds=2 * attempt))
        assert machine.accept(job, attempt, "s", failure(blame), NOW, POLICY) == job, "the replay of a retried answer"
        job = leased(job)
    job = machine.accept(job, 3, "s", failure(blame), NOW, POLICY)
    assert (job.state, job.outcome) == (JobState.FAILED, failure(blame))


def test_lapsed_leases_come_back_and_the_late_answer_is_refused() -> None:
    job = leased()
    for epoch in (1, 2, 3):
        held_until = job.lease_until
        assert held_until is not None
        job = machine.expire(job, held_until, POLICY)
        with pytest.raises(StaleLease):
            machine.accept(job, epoch, "s", success(), NOW, POLICY)
        if epoch < 3:
            assert job.state is JobState.QUEUED
            job = leased(job, secret="s")
    assert job.state is JobState.FAILED
    assert isinstance(job.outcome, Failure)
    assert job.outcome.fault.blame is Blame.INFRASTRUCTURE


def test_a_lapsed_lease_that_nobody_reaped_is_still_its_holders() -> None:
    late = NOW + timedelta(hours=1)
    assert machine.accept(leased(), 1, "s", success(), late, POLICY).state is JobState.SUCCEEDED


def test_cancelling() -> None:
    assert machine.cancel(machine.queued(NOW), NOW).state is JobState.CANCELLED
    asked = machine.cancel(leased(), NOW)
    assert (asked.state, asked.cancel_requested) == (JobState.LEASED, True)
    assert machine.accept(asked, 1, "s", failure(Blame.PHONE), NOW, POLICY).state is JobState.CANCELLED
    assert machine.accept(asked, 1, "s", success(), NOW, POLICY).state is JobState.SUCCEEDED, "the work was done"
    assert machine.expire(asked, NOW + timedelta(1), POLICY).state is JobState.CANCELLED


def test_what_the_world_failed_is_queued_anew_with_all_attempts_and_its_old_holder_is_refused() -> None:
    job = leased()
    for epoch in (1, 2, 3):
        job = machine.accept(job, epoch, "s", failure(Blame.INFRASTRUCTURE), NOW, POLICY)
        job = leased(job) if epoch < 3 else job
    assert job.state is JobState.FAILED
    later = NOW + timedelta(hours=1)
    again = machine.requeue(job, later)
    assert (again.state, again.attempts, again.epoch, again.not_before) == (JobState.QUEUED, 0, 3, later)
    assert again.finished_at is None
    with pytest.raises(StaleLease):
        machine.accept(again, 3, "s", success(), later, POLICY)
    assert leased(again).epoch == 4
    given_up = machine.give_up(machine.queued(NOW), failure(Blame.INFRASTRUCTURE).fault, NOW)
    assert machine.requeue(given_up, later).state is JobState.QUEUED


@pytest.mark.parametrize(
    "job",
    [
        machine.queued(NOW),
        leased(),
        machine.accept(leased(), 1, "s", success(), NOW, POLICY),
        machine.accept(leased(), 1, "s", failure(Blame.US), NOW, POLICY),
        machine.give_up(machine.queued(NOW), failure(Blame.PHONE).fault, NOW),
        machine.cancel(machine.queued(NOW), NOW),
        machine.expire(machine.cancel(leased(), NOW), NOW + timedelta(1), POLICY),
    ],
    ids=lambda job: f"{job.state}-{job.outcome.kind if job.outcome else 'open'}",
)
def test_nothing_else_is_queued_anew(job: Job) -> None:
    assert machine.requeue(job, NOW) == job


@pytest.mark.parametrize("state", sorted(FINAL))
def test_nothing_follows_a_final_state(state: JobState) -> None:
    job = Job(state=state, epoch=1, attempts=1, cancel_requested=False, not_before=NOW)
    assert machine.cancel(job, NOW) == job
    assert machine.expire(job, NOW, POLICY) == job
    assert machine.give_up(job, failure(Blame.PHONE).fault, NOW) == job
    with pytest.raises(ValueError, match=state):
        machine.lease(job, "bench", "s", NOW, POLICY)
