"""The fleet: phones that users registered, phones that agents see, and which of them are usable."""

import json
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from device_agent.contracts import AgentReport, Blame, Fault, PhoneState, Sighting
from server import events
from server.api.views import AgentGreeting, Maintenance, PhoneChange, PhoneRegistration, PhoneView
from server.clock import Clock, utc_now
from server.database import Database
from server.errors import Conflict, NotFound
from server.phone_view import PhoneFilter, view_of
from server.queue.phones import checks_due, maintain, phone_row, release, take_health
from server.queue.store import fail_for_phone
from server.tables import AgentRow, JobRow, PhoneRow

_POLL_SECONDS = 2.0
_MOST_TAGS = 32


class Fleet:
    """Registers, shows, changes, holds back, releases and removes phones, and takes the agents' reports."""

    def __init__(
        self,
        database: Database,
        clock: Clock = utc_now,
        *,
        quarantine_after: int = 3,
        quarantine_seconds: float = 600.0,
    ) -> None:
        self._database, self._clock = database, clock
        self._quarantine_after, self._hold = quarantine_after, timedelta(seconds=quarantine_seconds)

    def report(self, agent: str, report: AgentReport) -> AgentGreeting:
        """Keep what an agent sees, and say what is wanted of it; a new incarnation of it supersedes the old."""
        with self._database.write() as session:
            now = self._clock()
            row = session.get(AgentRow, agent) or AgentRow(name=agent)
            row.incarnation, row.version, row.host, row.last_seen = report.incarnation, report.version, report.host, now
            session.add(row)
            for sighting in report.phones:
                self._see(session, agent, sighting)
            self._miss(session, agent, {sighting.serial for sighting in report.phones})
            session.flush()
            check = checks_due(session, agent, now)
        return AgentGreeting(poll_seconds=_POLL_SECONDS, check=check) if check else _GREETING

    def _see(self, session: Session, agent: str, sighting: Sighting) -> None:
        now = self._clock()
        phone = phone_row(session, sighting.serial)
        before = _shown(phone)
        phone.agent, phone.state, phone.last_seen = agent, sighting.state, now
        phone.via, phone.probed_at = sighting.via, sighting.probed_at
        for column, value in (
            ("facts_json", sighting.facts),
            ("vitals_json", sighting.vitals),
            ("worker_json", sighting.worker),
        ):
            if value is not None:
                setattr(phone, column, value.model_dump_json())
        phone.fault_json = None if sighting.fault is None else sighting.fault.model_dump_json()
        if sighting.health is not None:
            take_health(phone, sighting.health, self._quarantine_after, now, self._hold)
        if sighting.state is PhoneState.READY and phone.quarantine_json is None and phone.maintenance_json is None:
            phone.usable_at = now
        if before != _shown(phone):
            events.record(session, now, "phone", phone.serial)

    def _miss(self, session: Session, agent: str, seen: set[str]) -> None:
        """A phone that its agent reports no longer is unreachable."""
        gone = PhoneRow.agent == agent, PhoneRow.serial.not_in(seen), PhoneRow.state != PhoneState.UNREACHABLE
        for phone in session.scalars(select(PhoneRow).where(*gone)):
            phone.state, phone.fault_json = PhoneState.UNREACHABLE, None
            events.record(session, self._clock(), "phone", phone.serial)

    def register(self, registration: PhoneRegistration) -> tuple[PhoneView, bool]:
        """Take a phone into the fleet; returns it, and whether it is new there. Again changes only what is given."""
        with self._database.write() as session:
            phone = phone_row(session, registration.serial)
            new = not phone.registered
            phone.registered = True
            phone.name = registration.name or phone.name
            phone.group_name = registration.group or phone.group_name
            phone.note = registration.note or phone.note
            if registration.tags:
                phone.tags_json = json.dumps(list(dict.fromkeys(registration.tags)))
            return self._told(session, phone), new

    def change(self, serial: str, change: PhoneChange) -> PhoneView:
        """Name, group, tag and annotate a registered phone; what the change leaves out stays.

        Raises:
            NotFound: neither registered nor seen.
            Conflict: only seen; or it would have too many tags.
        """
        with self._database.write() as session:
            phone = _known(session, serial)
            if not phone.registered:
                raise Conflict(f"phone {serial} is not registered", advice=f"Register it: fulcrum phone add {serial}.")
            for field, column in (("name", "name"), ("group", "group_name"), ("note", "note")):
                if field in change.model_fields_set:
                    setattr(phone, column, getattr(change, field))
            tags = [tag for tag in json.loads(phone.tags_json) if tag not in change.remove_tags]
            tags = list(dict.fromkeys([*tags, *change.add_tags]))
            if len(tags) > _MOST_TAGS:
                raise Conflict(f"phone {serial} would have {len(tags)} tags", advice=f"It may have {_MOST_TAGS}.")
            phone.tags_json = json.dumps(tags)
            return self._told(session, phone)

    def view(self, serial: str) -> PhoneView:
        """One phone.

        Raises:
            NotFound: neither registered nor seen.
        """
        with self._database.read() as session:
            return view_of(_known(session, serial), _job_of(session, serial), self._clock())

    def all(self, wanted: PhoneFilter | None = None) -> list[PhoneView]:
        """Every phone, registered or seen, by serial; or those that are wanted."""
        now = self._clock()
        with self._database.read() as session:
            held = session.scalars(select(JobRow).where(JobRow.state == "leased"))
            jobs = {job.serial: job for job in held}
            rows = session.scalars(select(PhoneRow).order_by(PhoneRow.serial))
            views = [view_of(row, jobs.get(row.serial), now) for row in rows]
        return views if wanted is None else [view for view in views if wanted.takes(view)]

    def release(self, serial: str) -> PhoneView:
        """End a phone's quarantine and its maintenance.

        Raises:
            NotFound: neither registered nor seen.
        """
        with self._database.write() as session:
            phone = _known(session, serial)
            release(phone)
            return self._told(session, phone)

    def maintain(self, serial: str, maintenance: Maintenance) -> PhoneView:
        """Give a phone no more work until it is released; what it runs now is finished.

        Raises:
            NotFound: neither registered nor seen.
        """
        with self._database.write() as session:
            phone = _known(session, serial)
            maintain(phone, maintenance.reason)
            return self._told(session, phone)

    def check(self, serial: str) -> PhoneView:
        """Ask the phone's agent to check its health as soon as no job runs there; passing it ends a quarantine.

        Raises:
            NotFound: neither registered nor seen.
            Conflict: no agent serves it.
        """
        with self._database.write() as session:
            phone = _known(session, serial)
            if phone.agent is None:
                raise Conflict(
                    f"no agent serves phone {serial}",
                    advice=f"Start one on the host that reaches it: fulcrum agent --phone {serial}",
                )
            phone.check_at = self._clock()
            return self._told(session, phone)

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
                phone.registered, phone.tags_json = False, "[]"
                phone.name = phone.group_name = phone.note = phone.maintenance_json = None
            events.record(session, self._clock(), "phone", serial)

    def _told(self, session: Session, phone: PhoneRow) -> PhoneView:
        """A phone that a user changed, and that the page should read again."""
        now = self._clock()
        events.record(session, now, "phone", phone.serial)
        return view_of(phone, _job_of(session, phone.serial), now)


_GREETING = AgentGreeting(poll_seconds=_POLL_SECONDS)


def _shown(phone: PhoneRow) -> tuple[str | None, ...]:
    """What the page should hear of when it changes; readings that never stand still are not among it."""
    return phone.agent, phone.state, phone.facts_json, phone.fault_json, phone.health_json, phone.quarantine_json


def _known(session: Session, serial: str) -> PhoneRow:
    phone = session.get(PhoneRow, serial)
    if phone is None:
        raise NotFound(f"there is no phone {serial}", advice="List the fleet: fulcrum phone list, or GET /v1/phones.")
    return phone


def _job_of(session: Session, serial: str) -> JobRow | None:
    return session.scalar(select(JobRow).where(JobRow.serial == serial, JobRow.state == "leased"))
