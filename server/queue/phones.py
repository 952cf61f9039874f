"""Which phones may get jobs, and what the jobs' outcomes say of them."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from device_agent.contracts import Blame, Fault, LeaseRequest, PhoneState
from server.tables import AgentRow, PhoneRow


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
