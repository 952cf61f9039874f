"""Which phones may get jobs, and what the jobs' outcomes say of them."""

from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from device_agent.contracts import Blame, Fault, LeaseRequest, PhoneState
from server.tables import AgentRow, PhoneRow

_SILENT_AFTER = timedelta(seconds=30)  # an agent reports every 2 s
_ADVICE = {
    PhoneState.UNPROVEN: "Its agent proves it first: wait until GET /v1/phones/{serial} says `ready`.",
    PhoneState.UNAUTHORISED: "Allow USB debugging on the phone's screen.",
    PhoneState.UNREACHABLE: "Attach the phone, and start an agent for it: {agent}",
    PhoneState.QUARANTINED: "Mend the phone, then release it: POST /v1/phones/{serial}/release.",
}


def usable(request: LeaseRequest) -> Select[str]:
    """Serials among the agent's that may get work: registered, proved by this very agent, not in quarantine."""
    current = select(AgentRow.name).where(AgentRow.name == request.agent, AgentRow.incarnation == request.incarnation)
    return select(PhoneRow.serial).where(
        PhoneRow.serial.in_(request.serials),
        PhoneRow.registered,
        PhoneRow.state == PhoneState.READY,
        PhoneRow.quarantine_json.is_(None),
        PhoneRow.agent.in_(current),
    )


def hindrance(session: Session, serial: str, now: datetime) -> Fault | None:
    """What keeps a phone from taking work now, and what to do about it; None when nothing does."""
    phone = session.get(PhoneRow, serial)
    agent = f"fulcrum agent --server URL --phone {serial}"
    if phone is None or not phone.registered:
        return _not_ready(f"phone {serial} is not registered", 'Register it: POST /v1/phones with {"serial": ...}.')
    if phone.quarantine_json is not None:
        reason = Fault.model_validate_json(phone.quarantine_json)
        return _not_ready(f"phone {serial} is quarantined: {reason.message}", reason.advice)
    if phone.last_seen is None or now - phone.last_seen > _SILENT_AFTER:
        silence = f"for more than {_SILENT_AFTER.seconds} s" if phone.last_seen else "yet"
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


def judge(session: Session, serial: str, fault: Fault | None, limit: int) -> None:
    """Count a phone's own faults in a row; at `limit` it goes into quarantine until somebody releases it."""
    phone = phone_row(session, serial)
    if fault is None or fault.blame is Blame.USER:
        phone.faults_in_a_row = 0
        return
    if fault.blame is not Blame.PHONE:
        return
    phone.faults_in_a_row += 1
    if phone.faults_in_a_row >= limit and phone.quarantine_json is None:
        reason = Fault(
            blame=Blame.PHONE,
            slug="quarantined",
            message=f"{phone.faults_in_a_row} jobs in a row failed by the phone's fault, the last: {fault.message}",
            advice=f"Mend the phone, then release it: POST /v1/phones/{serial}/release. {fault.advice}".strip(),
        )
        phone.quarantine_json = reason.model_dump_json()


def phone_row(session: Session, serial: str) -> PhoneRow:
    """The phone's row, made when it is not there yet."""
    phone = session.get(PhoneRow, serial)
    if phone is None:
        phone = PhoneRow(serial=serial, registered=False, tags_json="[]", state=PhoneState.UNPROVEN, faults_in_a_row=0)
        session.add(phone)
    return phone
