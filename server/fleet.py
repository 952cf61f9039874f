"""The fleet: phones that users registered, phones that agents see, and which of them are usable."""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from device_agent.contracts import AgentReport, Blame, Fault, PhoneFacts, PhoneState, Sighting
from server import events
from server.api.views import PhoneJob, PhoneRegistration, PhoneView
from server.clock import Clock, utc_now
from server.database import Database
from server.errors import NotFound
from server.queue.phones import phone_row
from server.queue.store import fail_for_phone
from server.tables import AgentRow, JobRow, PhoneRow


class Fleet:
    """Registers, shows, releases and removes phones, and takes the agents' reports."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database, self._clock = database, clock

    def report(self, agent: str, report: AgentReport) -> None:
        """Keep what an agent sees; a new incarnation of it supersedes the old."""
        with self._database.write() as session:
            now = self._clock()
            row = session.get(AgentRow, agent) or AgentRow(name=agent)
            row.incarnation, row.version, row.host, row.last_seen = report.incarnation, report.version, report.host, now
            session.add(row)
            for sighting in report.phones:
                self._see(session, agent, sighting)
            self._miss(session, agent, {sighting.serial for sighting in report.phones})

    def _see(self, session: Session, agent: str, sighting: Sighting) -> None:
        now = self._clock()
        phone = phone_row(session, sighting.serial)
        before = (phone.agent, phone.state, phone.facts_json, phone.fault_json)
        phone.agent, phone.state, phone.last_seen = agent, sighting.state, now
        if sighting.facts is not None:
            phone.facts_json = sighting.facts.model_dump_json()
        phone.fault_json = None if sighting.fault is None else sighting.fault.model_dump_json()
        if sighting.state is PhoneState.READY and phone.quarantine_json is None:
            phone.usable_at = now
        if before != (phone.agent, phone.state, phone.facts_json, phone.fault_json):
            events.record(session, now, "phone", phone.serial)

    def _miss(self, session: Session, agent: str, seen: set[str]) -> None:
        """A phone that its agent reports no longer is unreachable."""
        gone = PhoneRow.agent == agent, PhoneRow.serial.not_in(seen), PhoneRow.state != PhoneState.UNREACHABLE
        for phone in session.scalars(select(PhoneRow).where(*gone)):
            phone.state = PhoneState.UNREACHABLE
            events.record(session, self._clock(), "phone", phone.serial)

    def register(self, registration: PhoneRegistration) -> tuple[PhoneView, bool]:
        """Take a phone into the fleet; returns it, and whether it is new there. Again changes only what is given."""
        with self._database.write() as session:
            phone = phone_row(session, registration.serial)
            new = not phone.registered
            phone.registered = True
            phone.name = registration.name or phone.name
            if registration.tags:
                phone.tags_json = json.dumps(registration.tags)
            events.record(session, self._clock(), "phone", phone.serial)
            return _view(phone, _job_of(session, phone.serial)), new

    def view(self, serial: str) -> PhoneView:
        """One phone.

        Raises:
            NotFound: neither registered nor seen.
        """
        with self._database.read() as session:
            return _view(_known(session, serial), _job_of(session, serial))

    def all(self) -> list[PhoneView]:
        """Every phone, registered or seen, by serial."""
        with self._database.read() as session:
            held = session.scalars(select(JobRow).where(JobRow.state == "leased"))
            jobs = {job.serial: job for job in held}
            return [_view(p, jobs.get(p.serial)) for p in session.scalars(select(PhoneRow).order_by(PhoneRow.serial))]

    def release(self, serial: str) -> PhoneView:
        """End a phone's quarantine.

        Raises:
            NotFound: neither registered nor seen.
        """
        with self._database.write() as session:
            phone = _known(session, serial)
            phone.quarantine_json, phone.faults_in_a_row = None, 0
            events.record(session, self._clock(), "phone", serial)
            return _view(phone, _job_of(session, serial))

    def remove(self, serial: str) -> None:
        """Take a phone out of the fleet and fail its open jobs; an agent may still see it.

        Raises:
            NotFound: neither registered nor seen.
        """
        with self._database.write() as session:
            phone = _known(session, serial)
            fault = Fault(
                blame=Blame.USER,
                slug="phone-removed",
                message=f"phone {serial} was removed from the fleet",
                advice="Register it again, or start the work on another phone.",
            )
            fail_for_phone(session, serial, fault, self._clock())
            if phone.agent is None:
                session.delete(phone)
            else:
                phone.registered, phone.name, phone.tags_json = False, None, "[]"
            events.record(session, self._clock(), "phone", serial)


def _known(session: Session, serial: str) -> PhoneRow:
    phone = session.get(PhoneRow, serial)
    if phone is None:
        raise NotFound(f"there is no phone {serial}", advice="List the fleet: GET /v1/phones.")
    return phone


def _job_of(session: Session, serial: str) -> JobRow | None:
    return session.scalar(select(JobRow).where(JobRow.serial == serial, JobRow.state == "leased"))


def _view(phone: PhoneRow, job: JobRow | None) -> PhoneView:
    facts = None if phone.facts_json is None else PhoneFacts.model_validate_json(phone.facts_json)
    fault = phone.quarantine_json or phone.fault_json
    return PhoneView(
        serial=phone.serial,
        name=phone.name,
        registered=phone.registered,
        state=PhoneState.QUARANTINED if phone.quarantine_json else PhoneState(phone.state),
        facts=facts,
        fault=None if fault is None else Fault.model_validate_json(fault),
        agent=phone.agent,
        last_seen=phone.last_seen,
        job=None if job is None else PhoneJob(kind=job.kind, id=job.id),
        tags=tuple(json.loads(phone.tags_json)),
        virtual=None if facts is None else facts.virtual,
    )
