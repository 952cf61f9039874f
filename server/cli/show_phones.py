"""How phones look in a terminal."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from device_agent.contracts import PhoneFacts, Vitals
from server.api.views import PhoneView
from server.cli.show import console, new_table

if TYPE_CHECKING:
    from device_agent.adb.discover import Found
    from server.client import Client

_GB = 1e9
_LOOK_SECONDS = 0.5
_NOT_FOUND = """No phone is within reach of this host.
By cable: turn on Developer options and USB debugging on the phone (Samsung: Auto Blocker off), use a cable that carries
data, and accept the prompt on its screen. On TCP: `adb tcpip 5555` over the cable, then `--phone ADDRESS:5555`; what
listens on TCP alone is not looked for."""


def table(views: Iterable[PhoneView]) -> None:
    """The fleet, a phone in a line."""
    shown = new_table(
        "Phones", "serial", "name", "state", "model", "SoC", "Android", "group", "tags", "battery", "note"
    )
    for view in views:
        facts = view.facts
        shown.add_row(
            view.serial,
            view.name or "",
            view.state,
            *(escape(said or "") for said in ((facts.model, facts.soc, facts.android) if facts else ("", "", ""))),
            view.group or "",
            escape(", ".join(view.tags)),
            battery(view.vitals),
            escape("; ".join(_notes(view))),
        )
    console.print(shown)


def _notes(view: PhoneView) -> Iterator[str]:
    if view.fault:
        yield f"{view.fault.message} {view.fault.advice}".strip()
    if view.virtual:
        yield "virtual: its milliseconds are this host's"
    if not (view.self_check and view.self_check.passed):
        yield f"self-check not passed: fulcrum phone test {view.serial}"
    if not view.registered:
        yield f"not registered: fulcrum phone add {view.serial}"
    if view.note:
        yield view.note


def battery(vitals: Vitals | None) -> str:
    """Charge, temperature, and whether it is being charged."""
    if vitals is None or vitals.battery_percent is None:
        return ""
    heat = "" if vitals.battery_celsius is None else f" {vitals.battery_celsius:.0f} °C"
    return f"{vitals.battery_percent} %{heat}" + (" charging" if vitals.charging else "")


def details(views: Iterable[PhoneView]) -> None:
    """Everything that is known of each phone."""
    for view in views:
        shown = Table(title=view.serial, title_justify="left", show_header=False)
        shown.add_column(style="bold", no_wrap=True)
        shown.add_column(overflow="fold")
        for label, said in _lines(view):
            if said:
                shown.add_row(label, escape(said))
        console.print(shown)


def _lines(view: PhoneView) -> Iterator[tuple[str, str]]:
    yield "name", view.name or ""
    yield "state", view.state
    yield "why", f"{view.fault.message} {view.fault.advice}" if view.fault else ""
    yield "group", view.group or ""
    yield "tags", ", ".join(view.tags)
    yield "note", view.note or ""
    if view.facts:
        yield from _fact_lines(view.facts)
    yield "battery", battery(view.vitals)
    yield "free space", _size(view.vitals.free_bytes if view.vitals else None)
    if view.health:
        passed = "passed" if view.health.passed else "FAILED"
        items = "".join(f"\n{'' if i.passed else 'FAILED '}{i.name}: {i.detail}" for i in view.health.items)
        yield "health check", f"{passed}, {view.health.started_at:%Y-%m-%d %H:%M:%S %Z}{items}"
    yield "job", f"{view.job.kind} {view.job.id}" if view.job else ""
    found = f", found by {view.via}" if view.via else ""
    yield "agent", f"{view.agent}{found}" if view.agent else ""
    if view.worker:
        memory = _size(view.worker.rss_bytes) or "unknown memory"
        yield "process", f"{view.worker.pid}, {memory}, restarts: {view.worker.restarts}"
    yield "proved", f"{view.probed_at:%Y-%m-%d %H:%M:%S %Z}" if view.probed_at else ""


def _fact_lines(facts: PhoneFacts) -> Iterator[tuple[str, str]]:
    yield "model", " ".join(filter(None, (facts.manufacturer, facts.model)))
    yield "virtual", "yes: its milliseconds are this host's" if facts.virtual else ""
    yield "SoC", facts.soc or ""
    yield "cores", str(facts.cores or "")
    yield "clusters", "\n".join(_cluster(facts, policy) for policy in facts.cluster_max_khz)
    yield "RAM", _size(facts.memory_bytes)
    yield "Android", f"{facts.android or ''} (SDK {facts.sdk or 'unknown'})"
    yield "fingerprint", facts.fingerprint or ""
    yield "ABI", facts.abi or ""
    yield "ro.serialno", facts.serialno or ""


def _cluster(facts: PhoneFacts, policy: str) -> str:
    cores = facts.cluster_cores.get(policy)
    where = "cores unknown" if cores is None else "cores " + " ".join(map(str, cores))
    return f"{policy}: {where}, up to {facts.cluster_max_khz[policy] / 1e6:.3f} GHz"


def _size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / 1e6:.0f} MB"


def wait_for_check(client: "Client", before: PhoneView, seconds: float) -> PhoneView:
    """The phone once another check than `before`'s is in, or after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        view = client.phone(before.serial)
        if (view.health is not None and view.health != before.health) or time.monotonic() > until:
            return view
        time.sleep(_LOOK_SECONDS)


def found_table(found: "Sequence[Found]") -> None:
    """What discovery brought, and what to do with it."""
    if not found:
        console.print(_NOT_FOUND, markup=False)
        return
    shown = new_table("Within reach of this host", "serial", "via", "state", "what is known", "what to do")
    for phone in found:
        known = ", ".join(f"{name} {value}" for name, value in phone.facts.items())
        advice = phone.detail or f"fulcrum agent --phone {phone.serial}, and fulcrum phone add {phone.serial}"
        shown.add_row(phone.serial, phone.via, phone.state, escape(known), escape(advice))
    console.print(shown)


def found_as_json(found: "Sequence[Found]") -> None:
    """What discovery brought, as it is."""
    console.print_json(data=[asdict(phone) | {"facts": dict(phone.facts)} for phone in found])
