"""The phones of one agent: a process for each that can be worked with, and a word on those that cannot."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from device_agent.adb.discover import Found
from device_agent.agent.messages import Orders, Word
from device_agent.agent.outbox import Outbox
from device_agent.agent.phone_child import PhoneChild
from device_agent.contracts import Blame, Fault, PhoneState, Route, Sighting

_AT_WORK = (PhoneState.READY, PhoneState.RESTING)
_PATIENCE = 3  # rounds of discovery that an adopted phone may miss
_LOG = logging.getLogger(__name__)

OrdersFor = Callable[[str, Route | None], Orders]


class Crew:
    """Children by serial. Those of phones that a user named stay; those that were discovered come and go."""

    def __init__(self, named: Iterable[str], orders: OrdersFor, outbox: Outbox, wake: Callable[[], None]) -> None:
        self._orders, self._outbox, self._wake = orders, outbox, wake
        self._children = {serial: self._child(serial, None) for serial in dict.fromkeys(named)}
        self._missed: dict[str, int] = {}
        self._idle: dict[str, Sighting] = {}
        self._changed = False

    def _child(self, serial: str, via: Route | None) -> PhoneChild:
        return PhoneChild(self._orders(serial, via), self._outbox, self._wake)

    @property
    def next_at(self) -> float:
        """When `tend` is due at the latest (time.monotonic seconds)."""
        return min((child.next_at for child in self._children.values()), default=float("inf"))

    def tend(self) -> None:
        """Start, restart and end processes."""
        for child in self._children.values():
            child.tend()

    def changes(self) -> bool:
        """Whether a phone's state or health has changed since the last question."""
        changed, self._changed = self._changed, False
        for child in self._children.values():
            changed, child.changed = changed or child.changed, False
        return changed

    @property
    def waiting(self) -> bool:
        """Whether a process waits for its outcome to be delivered."""
        return any(child.outcome for child in self._children.values())

    def take_waiting(self) -> list[PhoneChild]:
        """Those that wait, each once. What they wait for is in the outbox by now."""
        found = [child for child in self._children.values() if child.outcome]
        for child in found:
            child.outcome = False
        return found

    def say(self, word: Word, serials: Sequence[str] | None = None) -> None:
        """Send a word to all processes, or to those of some phones."""
        for serial, child in self._children.items():
            if serials is None or serial in serials:
                child.say(word)

    def sightings(self) -> tuple[Sighting, ...]:
        """Every phone here. One that is reached in two ways works in one of them alone."""
        children = sorted(self._children.values(), key=lambda child: not child.working)
        owners: dict[str, str] = {}
        seen = {}
        for child in children:
            sighting = child.sighting
            serialno = sighting.facts.serialno if sighting.facts and sighting.state in _AT_WORK else None
            owner = sighting.serial if serialno is None else owners.setdefault(serialno, sighting.serial)
            seen[child.serial] = sighting if owner == sighting.serial else _twice(sighting, owner)
        return (*(seen[serial] for serial in self._children), *self._idle.values())

    def adopt(self, found: Sequence[Found]) -> None:
        """Take in what a round of discovery found; let go of adopted phones that are gone for good."""
        idle = {}
        for phone in found:
            if phone.serial in self._children:
                continue
            sighting = _as_sighting(phone)
            if sighting is None:
                continue
            if phone.state == "device":
                _LOG.info("found %s (%s)", phone.serial, phone.via)
                self._children[phone.serial] = self._child(phone.serial, phone.via)
                self._missed[phone.serial] = 0
            else:
                idle[phone.serial] = self._idle.get(phone.serial, sighting)
                if idle[phone.serial].fault != sighting.fault:
                    idle[phone.serial] = sighting
        self._changed = self._changed or idle != self._idle
        self._idle = idle
        self._let_go({phone.serial for phone in found})

    def _let_go(self, present: set[str]) -> None:
        for serial in list(self._missed):
            gone = serial not in present and self._children[serial].sighting.state not in _AT_WORK
            self._missed[serial] = self._missed[serial] + 1 if gone else 0
            if self._missed[serial] >= _PATIENCE:
                _LOG.info("%s is gone", serial)
                child = self._children.pop(serial)
                del self._missed[serial]
                child.stop()
                child.join(0.5)
                self._changed = True

    def stop(self, seconds: float) -> None:
        """End all processes within `seconds`, in peace or by force."""
        until = time.monotonic() + seconds
        for child in self._children.values():
            child.stop()
        for child in self._children.values():
            child.join(until - time.monotonic())


def _twice(sighting: Sighting, owner: str) -> Sighting:
    fault = Fault(
        blame=Blame.USER,
        slug="same-phone",
        message=f"This is the phone that its agent serves as {owner} already.",
        advice=f"Nothing needs to be done: it works under this name when {owner} cannot be reached.",
    )
    return sighting.model_copy(update={"state": PhoneState.UNPROVEN, "fault": fault})


_STATES = {
    "unauthorized": (
        PhoneState.UNAUTHORISED,
        Fault(
            blame=Blame.USER,
            slug="phone-unauthorised",
            message="The phone does not know this host's key.",
            advice="Unlock the phone and accept the prompt on its screen (Allow USB debugging; tick Always allow).",
        ),
    ),
    "unpaired": (
        PhoneState.UNAUTHORISED,
        Fault(
            blame=Blame.USER,
            slug="phone-unpaired",
            message="The phone offers wireless debugging, but is not paired with this host.",
            advice="On the phone: Developer options, Wireless debugging, Pair with code; on this host: adb pair.",
        ),
    ),
    "no-permissions": (
        PhoneState.UNREACHABLE,
        Fault(
            blame=Blame.USER,
            slug="usb-permissions",
            message="This user may not open the phone's USB device.",
            advice="Install Android's udev rules (Debian: android-sdk-platform-tools-common), then plug it in again.",
        ),
    ),
    "offline": (
        PhoneState.UNREACHABLE,
        Fault(
            blame=Blame.PHONE,
            slug="phone-offline",
            message="The phone is attached, but does not answer.",
            advice="Plug it in again, or turn USB debugging off and on.",
        ),
    ),
}


def _as_sighting(found: Found) -> Sighting | None:
    """A phone that was found, as it is told to the server; None for a name that no phone can have there."""
    state, fault = _STATES.get(found.state, (PhoneState.UNPROVEN, None))
    if fault is not None and found.detail:
        fault = fault.model_copy(update={"advice": found.detail})
    try:
        return Sighting(serial=found.serial, via=found.via, state=state, fault=fault, probed_at=datetime.now(UTC))
    except ValidationError:
        _LOG.debug("%r is no serial", found.serial)
        return None
