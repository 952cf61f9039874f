"""Self-checks of phones: asked for, prepared, done as jobs of the queue, and shown with their phone.

A check is a row from the moment it is asked for; its job follows when the golden Program is there, and the job's
outcome is the only record of what came of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from device_agent.contracts import CheckJob, Fault, FulcrumError, JobOutcome, SelfCheck, Success
from server import events
from server.api.views import PhoneView, SelfCheckView
from server.clock import Clock, Ids, new_id, utc_now
from server.database import Database
from server.errors import NotFound
from server.golden import GoldenProgram, ServerClosing
from server.queue.machine import FINAL
from server.queue.store import JobQueue
from server.tables import JobRow, PhoneRow, SelfCheckRow

_OUTCOME: TypeAdapter[JobOutcome] = TypeAdapter(JobOutcome)
State = Literal["preparing", "queued", "running", "passed", "failed"]


class SelfChecks:
    """Request, prepare, view. `golden` gives the Program that every check runs; it may take minutes."""

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        golden: Callable[[], GoldenProgram],
        clock: Clock = utc_now,
        ids: Ids = new_id,
    ) -> None:
        self._database, self._queue, self._golden = database, queue, golden
        self._clock, self._ids = clock, ids

    def request(self, serial: str) -> SelfCheckView:
        """Ask for a check of a phone; while one is open, that one is returned.

        Raises:
            NotFound: no such phone.
        """
        with self._database.write() as session:
            if session.get(PhoneRow, serial) is None:
                raise NotFound(f"there is no phone {serial}", advice=f"Register it first: fulcrum phone add {serial}.")
            newest = next(iter(_checks(session, [serial])), None)
            view = None if newest is None else _view(session, newest)
            if view is None or view.finished:
                row = SelfCheckRow(id=self._ids(), serial=serial, created_at=self._clock())
                session.add(row)
                events.record(session, self._clock(), "phone", serial)
                view = _view(session, row)
        return view

    def prepare(self) -> int:
        """Make the jobs of checks that have none yet; returns how many were made. Slow when something must be exported.

        A golden Program that cannot be had fails the checks that wait for it.
        """
        with self._database.read() as session:
            waiting = select(SelfCheckRow).where(SelfCheckRow.job_id.is_(None), SelfCheckRow.fault_json.is_(None))
            pending = [(row.id, row.serial) for row in session.scalars(waiting)]
        if not pending:
            return 0
        try:
            made = self._golden()
        except ServerClosing:
            return 0  # the next server's turn
        except FulcrumError as error:
            for check, serial in pending:
                self._settle(check, serial, fault=error.as_fault())
            return 0
        for check, serial in pending:
            work = CheckJob(program=made.program, golden=made.golden)
            self._settle(check, serial, job=self._queue.enqueue(work, serial, f"self-check:{check}"))
        return len(pending)

    def _settle(self, check: str, serial: str, *, job: str | None = None, fault: Fault | None = None) -> None:
        with self._database.write() as session:
            row = session.get_one(SelfCheckRow, check)
            row.job_id, row.fault_json = job, None if fault is None else fault.model_dump_json()
            events.record(session, self._clock(), "phone", serial)

    def view(self, serial: str, check: str) -> SelfCheckView:
        """One check; while it is queued, with what it waits for.

        Raises:
            NotFound: this phone has no such check.
        """
        with self._database.read() as session:
            row = session.get(SelfCheckRow, check)
            if row is None or row.serial != serial:
                raise NotFound(f"phone {serial} has no self-check {check}", advice="Ask for one: fulcrum phone test.")
            view, job = _view(session, row), row.job_id
        if view.state == "queued" and job is not None:
            return view.model_copy(update={"waiting": self._queue.hindrance(job)})
        return view

    def onto(self, phones: Sequence[PhoneView]) -> list[PhoneView]:
        """The phones, each with its last finished check, or else the open one.

        A check counts for the Android build that it was made on: an update, or another phone at the same address, is
        to be checked anew.
        """
        with self._database.read() as session:
            shown: dict[str, SelfCheckView] = {}
            for row in _checks(session, [phone.serial for phone in phones]):
                known = shown.get(row.serial)
                if known is None or not known.finished:
                    view = _view(session, row)
                    shown[row.serial] = view if view.finished or known is None else known
        return [_with(phone, shown.get(phone.serial)) for phone in phones]


def _with(phone: PhoneView, check: SelfCheckView | None) -> PhoneView:
    now = phone.facts.fingerprint if phone.facts else None
    if check is not None and check.steps and now is not None and now != check.fingerprint:
        check = check.model_copy(update={"outdated": True})
    return phone.model_copy(update={"self_check": check})


def _checks(session: Session, serials: Iterable[str]) -> Sequence[SelfCheckRow]:
    """The phones' checks, newest first."""
    rows = select(SelfCheckRow).where(SelfCheckRow.serial.in_(serials))
    return session.scalars(rows.order_by(SelfCheckRow.created_at.desc(), SelfCheckRow.id)).all()


def _view(session: Session, row: SelfCheckRow) -> SelfCheckView:
    job = None if row.job_id is None else session.get(JobRow, row.job_id)
    outcome = None if job is None or job.outcome_json is None else _OUTCOME.validate_json(job.outcome_json)
    result = outcome.result if isinstance(outcome, Success) and isinstance(outcome.result, SelfCheck) else None
    fault = None if row.fault_json is None else Fault.model_validate_json(row.fault_json)
    if outcome is not None and not isinstance(outcome, Success):
        fault = outcome.fault
    return SelfCheckView(
        id=row.id,
        serial=row.serial,
        state=_state(row, job, result),
        created_at=row.created_at,
        finished_at=None if job is None else job.finished_at,
        runner=None if result is None else result.runner,
        runner_bundle=None if result is None else result.runner_bundle,
        executorch=None if result is None else result.executorch,
        fingerprint=None if result is None else result.fingerprint,
        steps=() if result is None else result.steps,
        fault=fault,
    )


def _state(row: SelfCheckRow, job: JobRow | None, result: SelfCheck | None) -> State:
    if row.fault_json is not None:
        return "failed"
    if job is None:
        return "preparing"
    if job.state in FINAL:
        return "passed" if result is not None and result.passed else "failed"
    return "running" if job.state == "leased" else "queued"
