"""Which phones may get jobs, and what the jobs' outcomes say of them."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from device_agent.contracts import Blame, Fault, HealthCheck, LeaseRequest, PhoneState
from server.errors import UnknownPhone
from server.tables import AgentRow, PhoneRow

SILENT_AFTER = timedelta(seconds=30)  # an agent reports every 2 s
_TELL_AGAIN = timedelta(seconds=60)
_RELEASE = "release it: fulcrum phone release {serial}, or POST /v1/phones/{serial}/release."
_ADVICE = {
    PhoneState.UNPROVEN: "Its agent proves it first: wait until GET /v1/phones/{serial} says `ready`.",
    PhoneState.UNAUTHORISED: "Allow USB debugging on the phone's screen.",
    PhoneState.UNREACHABLE: "Attach the phone, and start an agent for it: {agent}",
    PhoneState.RESTING: "It comes back by itself: see its battery in GET /v1/phones/{serial}.",
}


def usable(request: LeaseRequest) -> Select[str]:
    """Serials among the agent's that may get work: registered, proved by this very agent, not held back here."""
    current = select(AgentRow.name).where(AgentRow.name == request.agent, AgentRow.incarnation == request.incarnation)
    return select(PhoneRow.serial).where(
        PhoneRow.serial.in_(request.serials),
        PhoneRow.registered,
        PhoneRow.state == PhoneState.READY,
        PhoneRow.quarantine_json.is_(None),
        PhoneRow.maintenance_json.is_(None),
        PhoneRow.agent.in_(current),
    )


def hindrance(session: Session, serial: str, now: datetime) -> Fault | None:
    """What keeps a phone from taking work now, and what to do about it; None when nothing does."""
    phone = session.get(PhoneRow, serial)
    agent = f"fulcrum agent --server URL --phone {serial}"
    if phone is None or not phone.registered:
        return _not_ready(f"phone {serial} is not registered", 'Register it: POST /v1/phones with {"serial": ...}.')
    if phone.maintenance_json is not None:
        reason = Fault.model_validate_json(phone.maintenance_json)
        return _not_ready(f"phone {serial} is in maintenance: {reason.message}", reason.advice)
    if phone.quarantine_json is not None:
        reason = Fault.model_validate_json(phone.quarantine_json)
        return _not_ready(f"phone {serial} is quarantined: {reason.message}", reason.advice)
    if phone.last_seen is None or now - phone.last_seen > SILENT_AFTER:
        silence = f"for more than {SILENT_AFTER.seconds} s" if phone.last_seen else "yet"
        return _not_ready(f"phone {serial} is silent: no agent has reported it {silence}", f"Start an agent: {agent}")
    state = PhoneState(phone.state)
    if state is PhoneState.READY:
        return None
    if phone.fault_json is not None:
        fault = Fault.model_validate_json(phone.fault_json)
        return _not_ready(f"phone {serial} is {state}: {fault.message}", fault.advice)
    return _not_ready(f"phone {serial} is {state}", _ADVICE[state].format(serial=serial, agent=agent))


def _not_ready(message: str, advice: str) -> Fault:
    return Fault(blame=Blame.INFRASTRUCTURE, slug="phone-not-ready", message=message, advice=advice)


def judge(session: Session, serial: str, fault: Fault | None, limit: int, now: datetime, hold: timedelta) -> None:
    """Count a phone's own faults in a row; at `limit` it goes into quarantine.

    After `hold` its health is checked; it comes out when that is passed, or when somebody releases it.
    """
    phone = phone_row(session, serial)
    if fault is None or fault.blame is Blame.USER:
        phone.faults_in_a_row = 0
        return
    if fault.blame is not Blame.PHONE:
        return
    phone.faults_in_a_row += 1
    if phone.faults_in_a_row >= limit and phone.quarantine_json is None:
        said = f"{phone.faults_in_a_row} jobs in a row failed by the phone's fault, the last: {fault.message}"
        quarantine(phone, "quarantined", said, fault.advice, now, hold)


def quarantine(phone: PhoneRow, slug: str, why: str, advice: str, now: datetime, hold: timedelta) -> None:
    """Give the phone no work until it passes a health check that begins after `hold`, or until it is released."""
    release = _RELEASE.format(serial=phone.serial)
    reason = Fault(blame=Blame.PHONE, slug=slug, message=why, advice=f"Mend the phone, then {release} {advice}".strip())
    phone.quarantine_json, phone.quarantined_at = reason.model_dump_json(), now
    phone.check_at, phone.check_told_at = now + hold, None


def maintain(phone: PhoneRow, reason: str) -> None:
    """Give the phone no work until somebody releases it; what it runs now is finished."""
    fault = Fault(
        blame=Blame.USER,
        slug="maintenance",
        message=reason or "somebody works on it",
        advice=f"When that is done, {_RELEASE.format(serial=phone.serial)}",
    )
    phone.maintenance_json = fault.model_dump_json()


def release(phone: PhoneRow) -> None:
    """End quarantine and maintenance."""
    phone.maintenance_json = None
    phone.faults_in_a_row = 0
    _end_quarantine(phone)


def _end_quarantine(phone: PhoneRow) -> None:
    phone.quarantine_json = phone.quarantined_at = phone.check_at = phone.check_told_at = None


def take_health(phone: PhoneRow, health: HealthCheck, limit: int, now: datetime, hold: timedelta) -> None:
    """A check was done. Who fails is quarantined; who passes a check that the server asked for, comes out of it.

    Whoever came out so goes back by one more fault, not by `limit` of them.
    """
    known = health.model_dump_json()
    if phone.health_json == known:
        return
    phone.health_json = known
    if not health.passed:
        why = "; ".join(f"{item.name}: {item.detail}" for item in health.items if not item.passed)
        quarantine(phone, "health-check-failed", f"it failed its health check: {why}", "", now, hold)
    elif phone.check_told_at is not None:
        if phone.quarantine_json is not None:
            phone.faults_in_a_row = max(0, limit - 1)
        _end_quarantine(phone)


def checks_due(session: Session, agent: str, now: datetime) -> tuple[str, ...]:
    """Phones of this agent whose health it should check now; each is named again after a minute without an answer."""
    due = select(PhoneRow).where(PhoneRow.agent == agent, PhoneRow.check_at <= now).order_by(PhoneRow.serial)
    phones = session.scalars(due).all()
    for phone in phones:
        phone.check_told_at, phone.check_at = now, now + _TELL_AGAIN
    return tuple(phone.serial for phone in phones)


def phone_row(session: Session, serial: str) -> PhoneRow:
    """The phone's row, made when it is not there yet."""
    phone = session.get(PhoneRow, serial)
    if phone is None:
        phone = PhoneRow(serial=serial, registered=False, tags_json="[]", state=PhoneState.UNPROVEN, faults_in_a_row=0)
        session.add(phone)
    return phone


def require_serials(session: Session, names: Iterable[str]) -> tuple[str, ...]:
    """Serials, each once; `group:NAME` and `tag:NAME` stand for the registered phones that have it now.

    Raises:
        UnknownPhone: no registered phone has that group or tag.
    """
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(_serials(session, name)))
    return tuple(found)


def _serials(session: Session, name: str) -> Sequence[str]:
    kind, _, wanted = name.partition(":")
    exact = session.get(PhoneRow, name)
    if kind not in ("group", "tag") or (exact is not None and exact.registered):
        return (name,)
    phones = session.scalars(select(PhoneRow).where(PhoneRow.registered).order_by(PhoneRow.serial)).all()
    if kind == "group":
        found = [phone.serial for phone in phones if phone.group_name == wanted]
    else:
        found = [phone.serial for phone in phones if wanted in json.loads(phone.tags_json)]
    if not found:
        raise UnknownPhone(
            f"no registered phone has the {kind} {wanted}",
            advice=f"Give it to one: fulcrum phone edit SERIAL --{kind} {wanted}",
        )
    return found
