"""A phone's row as the API shows it, and which phones a question is about."""

import json
from dataclasses import dataclass
from datetime import datetime

from device_agent.contracts import (
    Blame,
    Fault,
    HealthCheck,
    PhoneFacts,
    PhoneState,
    Vitals,
    WorkerProcess,
)
from server.api.views import HealthView, PhoneJob, PhoneView
from server.queue.phones import SILENT_AFTER
from server.tables import JobRow, PhoneRow

_ALIVE = (PhoneState.READY, PhoneState.RESTING)


@dataclass(frozen=True)
class PhoneFilter:
    """Which phones are wanted; what is None does not matter. Text is compared without regard to case.

    `model` and `soc` may be parts of theirs, `android` the beginning of the version; a phone has all of `tags`.
    """

    model: str | None = None
    soc: str | None = None
    android: str | None = None
    tags: tuple[str, ...] = ()
    group: str | None = None
    state: PhoneState | None = None

    def takes(self, phone: PhoneView) -> bool:
        """Whether this phone is wanted."""
        facts = phone.facts
        maker = f"{facts.manufacturer or ''} {facts.model}" if facts else ""
        return (
            _within(self.model, maker)
            and _within(self.soc, facts.soc if facts else None)
            and (self.android is None or _is_version(facts.android if facts else None, self.android))
            and set(self.tags) <= set(phone.tags)
            and self.group in (None, phone.group)
            and self.state in (None, phone.state)
        )


def _within(part: str | None, whole: str | None) -> bool:
    return part is None or part.casefold() in (whole or "").casefold()


def _is_version(whole: str | None, wanted: str) -> bool:
    """Whether `wanted` is the version, or its first numbers: 14 takes 14 and 14.1, and not 140."""
    return whole is not None and (whole == wanted or whole.startswith(f"{wanted}."))


def view_of(phone: PhoneRow, job: JobRow | None, now: datetime) -> PhoneView:
    """All that is known of a phone."""
    state, fault = _standing(phone, now)
    facts = None if phone.facts_json is None else PhoneFacts.model_validate_json(phone.facts_json)
    return PhoneView(
        serial=phone.serial,
        name=phone.name,
        registered=phone.registered,
        state=state,
        facts=facts,
        fault=fault,
        agent=phone.agent,
        last_seen=phone.last_seen,
        job=None if job is None else PhoneJob(kind=job.kind, id=job.id),
        tags=tuple(json.loads(phone.tags_json)),
        group=phone.group_name,
        note=phone.note,
        via=phone.via,  # type: ignore[arg-type]  # what it was validated as, when it came
        probed_at=phone.probed_at,
        vitals=None if phone.vitals_json is None else Vitals.model_validate_json(phone.vitals_json),
        health=_health(phone),
        worker=None if phone.worker_json is None else WorkerProcess.model_validate_json(phone.worker_json),
        virtual=None if facts is None else facts.virtual,
    )


def _standing(phone: PhoneRow, now: datetime) -> tuple[PhoneState, Fault | None]:
    """What keeps a phone from work goes before what its agent says of it; a silent agent says nothing."""
    for state, reason in (
        (PhoneState.MAINTENANCE, phone.maintenance_json),
        (PhoneState.QUARANTINED, phone.quarantine_json),
    ):
        if reason is not None:
            return state, Fault.model_validate_json(reason)
    seen = PhoneState(phone.state)
    if seen in _ALIVE and phone.last_seen is not None and now - phone.last_seen > SILENT_AFTER:
        return PhoneState.SILENT, Fault(
            blame=Blame.INFRASTRUCTURE,
            slug="agent-silent",
            message=f"Its agent {phone.agent} has stopped reporting.",
            advice="See whether `fulcrum agent` still runs on its host, and reaches this server.",
        )
    return seen, None if phone.fault_json is None else Fault.model_validate_json(phone.fault_json)


def _health(phone: PhoneRow) -> HealthView | None:
    if phone.health_json is None:
        return None
    check = HealthCheck.model_validate_json(phone.health_json)
    return HealthView(started_at=check.started_at, passed=check.passed, items=check.items)
