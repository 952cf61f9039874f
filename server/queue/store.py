"""The jobs in their table: each change is one transaction, with the events that tell of it."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import datetime, timedelta

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

import device_agent.contracts as wire
from device_agent.contracts import Blame, Failure, Fault, JobOutcome, LeaseHeartbeat, LeaseRequest, LeaseResult
from server import events
from server.clock import Clock, Ids, new_id, new_secret, utc_now
from server.database import Database
from server.errors import NotFound
from server.queue import machine
from server.queue.answers import require_answer
from server.queue.machine import Job, JobState, Policy
from server.queue.phones import hindrance, judge, usable
from server.tables import JobRow, PhoneRow

_OUTCOME: TypeAdapter[JobOutcome] = TypeAdapter(JobOutcome)
_WORK: TypeAdapter[wire.Job] = TypeAdapter(wire.Job)
_SOON = timedelta(seconds=5)
_FIELDS = tuple(f.name for f in fields(Job) if f.name not in ("state", "outcome"))


class JobQueue:
    """Enqueue, lease, answer, reap, cancel. Safe from many threads and processes."""

    def __init__(
        self,
        database: Database,
        policy: Policy,
        *,
        quarantine_after: int = 3,
        quarantine_seconds: float = 600.0,
        queue_seconds: float = 1800.0,
        clock: Clock = utc_now,
        ids: Ids = new_id,
        secrets: Ids = new_secret,
    ) -> None:
        self._database = database
        self._policy = policy
        self._quarantine_after = quarantine_after
        self._hold = timedelta(seconds=quarantine_seconds)
        self._patience = timedelta(seconds=queue_seconds)
        self._clock, self._ids, self._secrets = clock, ids, secrets

    def enqueue(
        self,
        work: wire.Job,
        serial: str,
        dedup_key: str,
        *,
        search: str | None = None,
        run: str | None = None,
        number: int | None = None,
    ) -> str:
        """Queue `work` for a phone; the same `dedup_key` again gives the same job's id.

        A job that failed by infrastructure is tried anew when it is asked for again.
        """
        with self._database.write() as session:
            now = self._clock()
            known = session.scalar(select(JobRow).where(JobRow.dedup_key == dedup_key))
            if known is not None:
                self._move(session, [known], lambda job: machine.requeue(job, now), now)
                return known.id
            row = JobRow(
                id=self._ids(),
                dedup_key=dedup_key,
                kind=work.kind,
                serial=serial,
                search_id=search,
                run_id=run,
                number=number,
                payload_json=work.model_dump_json(),
                created_at=now,
            )
            session.add(row)
            self._store(session, row, machine.queued(now), now)
            return row.id

    def lease(self, request: LeaseRequest) -> wire.Lease | None:
        """The oldest job for one of the agent's phones, if a phone of its is usable and free."""
        with self._database.write() as session:
            now = self._clock()
            self._reap(session, now)
            session.flush()
            row = session.scalar(_next_for(request, now))
            if row is None:
                return None
            secret = self._secrets()
            job = machine.lease(_load(row), request.agent, secret, now, self._policy)
            self._store(session, row, job, now)
            return wire.Lease(
                job_id=row.id,
                serial=row.serial,
                epoch=job.epoch,
                secret=secret,
                seconds=self._policy.lease_seconds,
                job=_WORK.validate_json(row.payload_json),
            )

    def heartbeat(self, job_id: str, beat: LeaseHeartbeat) -> wire.LeaseState:
        """Extend a lease.

        Raises:
            NotFound: no such job.
            StaleLease: the sender holds it no longer.
        """
        with self._database.write() as session:
            row = _row(session, job_id)
            job = machine.heartbeat(_load(row), beat.epoch, beat.secret, self._clock(), self._policy)
            _save(row, job)
            return wire.LeaseState(cancelled=job.cancel_requested, seconds=self._policy.lease_seconds)

    def accept(self, job_id: str, result: LeaseResult) -> None:
        """Take an answer once; the same answer again is no error.

        Raises:
            NotFound: no such job.
            StaleLease: the sender holds it no longer.
            WrongAnswer: the result is not of this job; the lease stays, so that the holder can send a failure.
        """
        with self._database.write() as session:
            row = _row(session, job_id)
            now = self._clock()
            before = _load(row)
            job = machine.accept(before, result.epoch, result.secret, result.outcome, now, self._policy)
            if job == before:
                return
            require_answer(_WORK.validate_json(row.payload_json), row.serial, result.outcome)
            self._store(session, row, job, now)
            fault = result.outcome.fault if isinstance(result.outcome, Failure) else None
            judge(session, row.serial, fault, self._quarantine_after, now, self._hold)

    def reap(self) -> int:
        """Take lapsed leases back, and fail jobs whose phone stayed away too long; returns how many changed."""
        with self._database.write() as session:
            now = self._clock()
            return self._reap(session, now) + self._give_up(session, now)

    def cancel(self, job_id: str) -> None:
        """Ask one job to stop.

        Raises:
            NotFound: no such job.
        """
        with self._database.write() as session:
            self._cancel(session, [_row(session, job_id)])

    def cancel_for(self, session: Session, *, search: str | None = None, run: str | None = None) -> None:
        """Ask every job of a search or of a run to stop, within the caller's transaction."""
        self._cancel(session, list(session.scalars(select(JobRow).where(_of(search, run), _open()))))

    def resume_for(self, session: Session, *, search: str | None = None, run: str | None = None) -> None:
        """Take `cancel_for` back, within the caller's transaction."""
        now = self._clock()
        mine = session.scalars(select(JobRow).where(_of(search, run)))
        self._move(session, mine, lambda job: machine.resume(job, now), now)

    def look(self, job_id: str) -> Job:
        """Where a job is.

        Raises:
            NotFound: no such job.
        """
        with self._database.read() as session:
            return _load(_row(session, job_id))

    def hindrance(self, job_id: str) -> str | None:
        """Why a job is still queued after 5 s, and what to do about it; None before that, and when it is not queued.

        Raises:
            NotFound: no such job.
        """
        with self._database.read() as session:
            row, now = _row(session, job_id), self._clock()
            if row.state != JobState.QUEUED or now - row.not_before <= _SOON:
                return None
            why = hindrance(session, row.serial, now)
            return f"{why.message} ({why.advice})" if why else f"phone {row.serial} has not taken the job yet"

    def _reap(self, session: Session, now: datetime) -> int:
        lapsed = select(JobRow).where(JobRow.state == JobState.LEASED, JobRow.lease_until <= now)
        return self._move(session, session.scalars(lapsed), lambda job: machine.expire(job, now, self._policy), now)

    def _give_up(self, session: Session, now: datetime) -> int:
        since = now - self._patience
        usable = select(PhoneRow.serial).where(PhoneRow.usable_at > since)
        waiting = select(JobRow).where(
            JobRow.state == JobState.QUEUED, JobRow.not_before <= since, JobRow.serial.not_in(usable)
        )
        return sum(self._give_up_one(session, row, now) for row in session.scalars(waiting).all())

    def _give_up_one(self, session: Session, row: JobRow, now: datetime) -> int:
        """The phone is away, which is no fault of what it should have run."""
        why = hindrance(session, row.serial, now)
        fault = Fault(
            blame=Blame.INFRASTRUCTURE,
            slug="phone-unavailable",
            message=f"waited {self._patience.total_seconds():.0f} s in vain"
            + (f": {why.message}" if why else f" for phone {row.serial}"),
            advice=why.advice if why else "See the phone's state in the fleet: GET /v1/phones.",
        )
        return self._move(session, [row], lambda job: machine.give_up(job, fault, now), now)

    def _cancel(self, session: Session, rows: list[JobRow]) -> None:
        now = self._clock()
        self._move(session, rows, lambda job: machine.cancel(job, now), now)

    def _move(self, session: Session, rows: Iterable[JobRow], step: Callable[[Job], Job], now: datetime) -> int:
        moved = 0
        for row in list(rows):
            before = _load(row)
            job = step(before)
            if job != before:
                self._store(session, row, job, now)
                moved += 1
        return moved

    def _store(self, session: Session, row: JobRow, job: Job, now: datetime) -> None:
        _save(row, job)
        events.record(session, now, "job", row.id, row.search_id)
        events.record(session, now, "phone", row.serial)


def fail_for_phone(session: Session, serial: str, fault: Fault, now: datetime) -> None:
    """End every open job of a phone that leaves the fleet, within the caller's transaction."""
    for row in session.scalars(select(JobRow).where(JobRow.serial == serial, _open())):
        _save(row, machine.cancel(machine.give_up(_load(row), fault, now), now))
        events.record(session, now, "job", row.id, row.search_id)


def _next_for(request: LeaseRequest, now: datetime) -> Select[JobRow]:
    busy = select(JobRow.serial).where(JobRow.state == JobState.LEASED)
    return (
        select(JobRow)
        .where(
            JobRow.state == JobState.QUEUED,
            JobRow.not_before <= now,
            JobRow.serial.in_(usable(request)),
            JobRow.serial.not_in(busy),
        )
        .order_by(JobRow.created_at, JobRow.id)
        .limit(1)
    )


def _of(search: str | None, run: str | None) -> ColumnElement[bool]:
    """Jobs of a search itself, not of its runs; or those of a run."""
    return (JobRow.search_id == search) & JobRow.run_id.is_(None) if run is None else JobRow.run_id == run


def _open() -> ColumnElement[bool]:
    return JobRow.state.in_([JobState.QUEUED, JobState.LEASED])


def _row(session: Session, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id)
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return row


def _load(row: JobRow) -> Job:
    outcome = None if row.outcome_json is None else _OUTCOME.validate_json(row.outcome_json)
    return Job(state=JobState(row.state), outcome=outcome, **{name: getattr(row, name) for name in _FIELDS})


def _save(row: JobRow, job: Job) -> None:
    row.state = job.state
    row.outcome_json = None if job.outcome is None else job.outcome.model_dump_json()
    for name in _FIELDS:
        setattr(row, name, getattr(job, name))
