"""The end-to-end probe: a phone is ready when a nonce went there and came back through its shell."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from device_agent.adb import Link, PhoneUnreachable
from device_agent.condition import read_facts
from device_agent.contracts import FulcrumError, HealthCheck, PhoneState, Sighting, Vitals
from device_agent.vitals import BatteryPolicy, read_vitals

SECONDS = 10.0
PROMPT_SECONDS = 60.0  # a new connection would take the prompt off the screen, so each gives a human time to accept it
_UNKNOWN_KEY = ("phone-unauthorised", "phone-unpaired")


def probe(
    address: str,
    key_path: Path,
    known: Sighting | None = None,
    *,
    policy: BatteryPolicy | None = None,
    check: Callable[[Link, Vitals], HealthCheck] | None = None,
    seconds: float = SECONDS,
) -> Sighting:
    """The phone at `address` as it answers now; `known` is how it was seen before.

    Its facts are read again when it may be another phone, was away, or was started again. A phone that may work by
    `policy` is given the health `check`, if one is due.
    """
    known = known or Sighting(serial=address, state=PhoneState.UNPROVEN, probed_at=datetime.now(UTC))
    objection = None
    try:
        with Link.connect(address, key_path, seconds) as link:
            _prove(link, address, seconds)
            known = _look(link, known)
            if policy is not None and known.vitals is not None:
                objection = policy.objection(known.vitals, known.fault)
            if check is not None and known.vitals is not None and objection is None:
                known = known.model_copy(update={"health": check(link, known.vitals)})
    except FulcrumError as error:
        state = PhoneState.UNAUTHORISED if error.slug in _UNKNOWN_KEY else PhoneState.UNREACHABLE
        return known.model_copy(update={"state": state, "fault": error.as_fault(), "probed_at": datetime.now(UTC)})
    state = PhoneState.RESTING if objection else PhoneState.READY
    return known.model_copy(update={"state": state, "fault": objection, "probed_at": datetime.now(UTC)})


def _prove(link: Link, address: str, seconds: float) -> None:
    nonce = secrets.token_hex(8)
    answer = link.script('echo "$1"', nonce, timeout=seconds).strip()
    if answer != nonce:
        raise PhoneUnreachable(f"{address} answered {answer[:40]!r} to a nonce.", advice="Restart the phone.")


def _look(link: Link, known: Sighting) -> Sighting:
    """How the phone fares; and what it is, if that may have changed."""
    vitals, serialno = read_vitals(link)
    facts, health = known.facts, known.health
    if facts is not None and facts.serialno != serialno:
        facts = health = None
    stayed = known.state in (PhoneState.READY, PhoneState.RESTING)
    if facts is None or not stayed or known.vitals is None or known.vitals.boot != vitals.boot:
        facts = read_facts(link)
    return known.model_copy(update={"facts": facts, "vitals": vitals, "health": health})
