"""How a job moves. Pure: clock, secrets and policy come in, the next state goes out.

    queued -> leased -> succeeded | failed | cancelled
       ^________|  a lapsed lease, or a fault that another attempt may mend
       ^_______________________|  asked for again, after a fault of the world

Work may be done more than once; its outcome is taken once. Each lease has a higher epoch than the last, and only who
knows the secret of the present epoch can answer (fencing tokens, Kleppmann, "Designing Data-Intensive Applications",
chapter 8).
"""

import hashlib
import hmac
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from device_agent.contracts import Blame, Failure, Fault, JobOutcome, Success
from server.errors import StaleLease

_RETRIED = (Blame.INFRASTRUCTURE, Blame.PHONE)


class JobState(StrEnum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True)
class Policy:
    """How long a lease lasts without a heartbeat, how often a job is tried, how long it waits in between."""

    lease_seconds: float = 30.0
    attempts: int = 3
    pause_seconds: float = 1.0


@dataclass(frozen=True)
class Job:
    """What the machine needs to know of a job. `attempts` counts leases, `epoch` never falls."""

    state: JobState
    epoch: int
    attempts: int
    cancel_requested: bool
    not_before: datetime
    agent: str | None = None
    secret_hash: str | None = None
    lease_until: datetime | None = None
    answer_hash: str | None = None
    outcome: JobOutcome | None = None
    finished_at: datetime | None = None

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self.state in FINAL


def hash_secret(secret: str) -> str:
    """What is stored of a lease's secret; it has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _hash_answer(outcome: JobOutcome) -> str:
    return hashlib.sha256(outcome.model_dump_json().encode()).hexdigest()


def queued(now: datetime) -> Job:
    """A new job."""
    return Job(state=JobState.QUEUED, epoch=0, attempts=0, cancel_requested=False, not_before=now)


def lease(job: Job, agent: str, secret: str, now: datetime, policy: Policy) -> Job:
    """Give the job to `agent`.

    Raises:
        ValueError: the job is not there to be given.
    """
    if job.state is not JobState.QUEUED or job.not_before > now:
        raise ValueError(f"a {job.state} job cannot be leased before {job.not_before}")
    return replace(
        job,
        state=JobState.LEASED,
        epoch=job.epoch + 1,
        attempts=job.attempts + 1,
        agent=agent,
        secret_hash=hash_secret(secret),
        lease_until=now + timedelta(seconds=policy.lease_seconds),
        answer_hash=None,
    )


def _require_holder(job: Job, epoch: int, secret: str) -> None:
    known = job.secret_hash or ""
    if epoch != job.epoch or not hmac.compare_digest(known, hash_secret(secret)):
        raise _stale(job, epoch)


def _stale(job: Job, epoch: int) -> StaleLease:
    return StaleLease(
        f"epoch {epoch} holds this job no longer; it is {job.state} at epoch {job.epoch}",
        advice="Drop the answer: the job has been given to someone else, or has ended.",
    )


def heartbeat(job: Job, epoch: int, secret: str, now: datetime, policy: Policy) -> Job:
    """Extend the lease from now on.

    Raises:
        StaleLease: not the holder, or no longer.
    """
    _require_holder(job, epoch, secret)
    if job.state is not JobState.LEASED:
        raise _stale(job, epoch)
    return replace(job, lease_until=now + timedelta(seconds=policy.lease_seconds))


def accept(job: Job, epoch: int, secret: str, outcome: JobOutcome, now: datetime, policy: Policy) -> Job:
    """Take the holder's answer. The same answer again changes nothing and is no error.

    A lease that lapsed, but that nobody reaped yet, is still its holder's: the work is done, so it is taken.

    Raises:
        StaleLease: not the holder, or another answer was taken from this lease.
    """
    _require_holder(job, epoch, secret)
    answer = _hash_answer(outcome)
    if job.state is not JobState.LEASED:
        if job.answer_hash == answer:
            return job
        raise _stale(job, epoch)
    answered = replace(job, answer_hash=answer, lease_until=None)
    if isinstance(outcome, Success):
        return replace(answered, state=JobState.SUCCEEDED, outcome=outcome, finished_at=now)
    return _after_failure(answered, outcome, now, policy)


def expire(job: Job, now: datetime, policy: Policy) -> Job:
    """Take a lapsed lease back; a job that is not leased, or whose lease lasts, is returned as it is."""
    if job.state is not JobState.LEASED or job.lease_until is None or job.lease_until > now:
        return job
    fault = Fault(
        blame=Blame.INFRASTRUCTURE,
        slug="lease-lapsed",
        message=f"agent {job.agent} did not answer within its lease, attempt {job.attempts} of {policy.attempts}",
        advice="Look whether the agent still runs and reaches the server.",
    )
    return _after_failure(replace(job, secret_hash=None, lease_until=None), Failure(fault=fault), now, policy)


def cancel(job: Job, now: datetime) -> Job:
    """Ask a job to stop: at once while it is queued, by its holder's next heartbeat when it is leased."""
    if job.state is JobState.QUEUED:
        return replace(job, state=JobState.CANCELLED, cancel_requested=True, finished_at=now)
    return replace(job, cancel_requested=True) if job.state is JobState.LEASED else job


def resume(job: Job, now: datetime) -> Job:
    """Take back that a job shall stop, with all its attempts if it has; one that ended otherwise stays as it is."""
    if job.state is JobState.CANCELLED:
        return replace(job, state=JobState.QUEUED, attempts=0, cancel_requested=False, not_before=now, finished_at=None)
    return replace(job, cancel_requested=False) if job.state is JobState.LEASED else job


def give_up(job: Job, fault: Fault, now: datetime) -> Job:
    """Fail a queued job that waited in vain; any other is returned as it is."""
    if job.state is not JobState.QUEUED:
        return job
    return replace(job, state=JobState.FAILED, outcome=Failure(fault=fault), finished_at=now)


def requeue(job: Job, now: datetime) -> Job:
    """Queue a job anew that failed by infrastructure, with all its attempts; any other is returned as it is.

    The epoch stays, so that whoever held the job before is still refused.
    """
    if job.state is not JobState.FAILED or not isinstance(job.outcome, Failure):
        return job
    if job.outcome.fault.blame is not Blame.INFRASTRUCTURE:
        return job
    return replace(job, state=JobState.QUEUED, attempts=0, not_before=now, finished_at=None)


def _after_failure(job: Job, failure: Failure, now: datetime, policy: Policy) -> Job:
    if job.cancel_requested:
        return replace(job, state=JobState.CANCELLED, outcome=failure, finished_at=now)
    if failure.fault.blame in _RETRIED and job.attempts < policy.attempts:
        pause = timedelta(seconds=policy.pause_seconds * job.attempts)
        return replace(job, state=JobState.QUEUED, outcome=failure, not_before=now + pause)
    return replace(job, state=JobState.FAILED, outcome=failure, finished_at=now)
