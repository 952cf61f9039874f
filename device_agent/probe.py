"""The end-to-end probe: a phone is ready when a nonce went there and came back through its shell."""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from device_agent.adb import Link, PhoneUnauthorised, PhoneUnreachable
from device_agent.condition import read_facts
from device_agent.contracts import FulcrumError, PhoneFacts, PhoneState, Sighting

_SECONDS = 10.0


def probe(address: str, key_path: Path, facts: PhoneFacts | None = None, seconds: float = _SECONDS) -> Sighting:
    """The phone at `address` as it answers now; facts that are known already are not read again."""
    try:
        with Link.connect(address, key_path, seconds) as link:
            nonce = secrets.token_hex(8)
            answer = link.script('echo "$1"', nonce, timeout=seconds).strip()
            if answer != nonce:
                raise PhoneUnreachable(f"{address} answered {answer[:40]!r} to a nonce.", advice="Restart the phone.")
            facts = facts or read_facts(link)
    except FulcrumError as error:
        refused = isinstance(error, PhoneUnauthorised)
        return Sighting(
            serial=address,
            state=PhoneState.UNAUTHORISED if refused else PhoneState.UNREACHABLE,
            facts=facts,
            fault=error.as_fault(),
            probed_at=datetime.now(UTC),
        )
    return Sighting(serial=address, state=PhoneState.READY, facts=facts, probed_at=datetime.now(UTC))
