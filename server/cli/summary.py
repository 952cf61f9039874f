"""The demo's summary: one table, and the same as JSON."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from search.candidate import Candidate
from search.objectives import bounds, worst
from server.api.views import CandidateView, RunView, SearchView
from server.cli.show import console, glyphs
from server.client import Client

_PARTS = ("build", "export", "push", "run", "score")


def summarise(client: Client, search: SearchView, run: RunView, serial: str) -> dict[str, Any]:
    """Everything the demo found, as plain JSON values; times in seconds, from the server's own records."""
    candidates = client.candidates(search.id)
    winner = next(c for c in candidates if c.winner)
    phone = client.phone(serial)
    budgets = [report.model_dump(mode="json") for report in search.verdict.budgets] if search.verdict else []
    return {
        "winner": {
            **_candidate(winner),
            "architecture": winner.architecture.model_dump(mode="json"),
            "why": search.verdict.why if search.verdict else "",
            "budgets": budgets,
            "measurements": _profiles(winner),
        },
        "front": [_candidate(c) | {"measurements": _profiles(c)} for c in candidates if c.on_front],
        "stages": [
            {
                "name": stage.name,
                "metric": "bits_per_byte",
                "before": stage.before.get("bits_per_byte"),
                "after": stage.after.get("bits_per_byte"),
                "figures": {"before": stage.before, "after": stage.after},
                "seconds": stage.seconds,
            }
            for stage in run.stages
        ],
        "shipped": {
            "program": run.program.model_dump(mode="json") if run.program else None,
            "measurements": {s: p.model_dump(mode="json") for s, p in run.profiles.items()},
            "budgets": _kept(search, run),
            "prompt": run.spec.prompt,
            "text": run.text,
            "check": run.check.model_dump(mode="json") if run.check else None,
        },
        "phone": {
            "serial": serial,
            "name": phone.name,
            "virtual": phone.virtual,
            "self_check": bool(phone.self_check and phone.self_check.passed),
            "facts": phone.facts.model_dump(mode="json") if phone.facts else None,
        },
        "candidates": {"done": search.counts.done, "failed": search.counts.failed, "feasible": search.counts.feasible},
        "seconds": _seconds(search, run, candidates),
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "number": candidate.number,
        "blocks": glyphs(candidate.architecture),
        "width": candidate.architecture.width,
        "ffn_width": candidate.architecture.ffn_width,
        "parameters": candidate.parameters,
        "bits_per_byte": candidate.quality.bits_per_byte if candidate.quality else None,
    }


def _profiles(candidate: Candidate) -> dict[str, Any]:
    return {serial: profile.model_dump(mode="json") for serial, profile in candidate.profiles.items()}


def _kept(search: SearchView, run: RunView) -> list[dict[str, Any]]:
    """Whether the trained, monolithic Program still keeps what the composed, untrained one was chosen for."""
    found = []
    for name, bound in bounds(search.spec.budgets).items() if run.profiles else ():
        value = worst(run.profiles, name)
        found.append({"budget": name, "bound": bound, "value": value, "kept": value <= bound})
    return found


def _between(view: SearchView | RunView) -> float:
    if view.started_at is None or view.finished_at is None:
        return 0.0
    return (view.finished_at - view.started_at).total_seconds()


def _seconds(search: SearchView, run: RunView, candidates: Iterable[CandidateView]) -> dict[str, Any]:
    rows = [c.seconds for c in candidates]
    stages = {stage.name: stage.seconds or 0.0 for stage in run.stages}  # their steps alone
    return {
        "search": _between(search),
        "per_candidate": {part: sum(row.get(part, 0.0) for row in rows) / max(1, len(rows)) for part in _PARTS},
        "stages": stages,
        "scores_export_measure_and_talk": max(0.0, _between(run) - sum(stages.values())),
        "total": _between(search) + _between(run),
    }


def show_summary(report: dict[str, Any]) -> None:
    """The summary as a table."""
    winner, shipped, seconds = report["winner"], report["shipped"], report["seconds"]
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "winner",
        f"candidate {winner['number']}: {winner['blocks']}, width {winner['width']}, "
        f"{winner['parameters'] / 1e6:.2f} M parameters",
    )
    table.add_row("front", f"{len(report['front'])} of {report['candidates']['done']} candidates")
    for stage in report["stages"]:
        table.add_row(stage["name"], _trained(stage))
    virtual = " (virtual: the milliseconds are this host's)" if report["phone"]["virtual"] else ""
    checked = "self-check passed" if report["phone"]["self_check"] else "self-check NOT passed"
    table.add_row("phone", f"{report['phone']['name']}{virtual}, {checked}")
    for profile in shipped["measurements"].values():
        decode = profile["decode_ms"]
        table.add_row(
            "on the phone",
            f"{1e3 / decode['value']:.0f} tokens/s "
            f"({decode['value']:.2f} ms a token, 95 % interval {decode['low']:.2f} to {decode['high']:.2f}), "
            f"first token after {profile['ttft_ms']['value']:.1f} ms, "
            f"peak {profile['peak_memory_bytes'] / 1e6:.1f} MB",
        )
    if shipped["budgets"]:
        table.add_row(
            "budgets",
            "; ".join(
                f"{b['budget']} {b['value']:.3g} of {b['bound']:g} {'kept' if b['kept'] else 'BROKEN'}"
                for b in shipped["budgets"]
            ),
        )
    if check := shipped["check"]:
        table.add_row(
            "tokens",
            f"{check['agreed']} of {check['tokens']} are PyTorch's own, "
            f"{len(check['near_ties'])} near ties: {'passed' if check['passed'] else 'FAILED'}",
        )
    table.add_row("search", _spent(seconds["search"], report))
    parts = ", ".join(f"{part} {spent:.1f}" for part, spent in seconds["per_candidate"].items())
    table.add_row("per candidate", f"{parts} s (export and score run side by side, one a core)")
    table.add_row("training", f"{sum(seconds['stages'].values()):.0f} s in its steps")
    table.add_row(
        "beside training",
        f"{seconds['scores_export_measure_and_talk']:.0f} s to score before and after each stage, "
        "export, measure and talk",
    )
    table.add_row("total", f"{seconds['total'] / 60:.1f} minutes")
    console.print(table)


def _gain(figures: dict[str, dict[str, float]], name: str) -> str:
    return " -> ".join(f"{figures[when][name]:.3f}" for when in ("before", "after") if name in figures[when])


def _trained(stage: dict[str, Any]) -> str:
    """What a stage did to the bits per byte, of each source too where there are several, and how long it took."""
    figures, mark = stage["figures"], "bits_per_byte/"
    sources = [
        f"{name.removeprefix(mark)} {_gain(figures, name)}" for name in figures["after"] if name.startswith(mark)
    ]
    listed = f" ({', '.join(sources)})" if len(sources) > 1 else ""
    return f"{_gain(figures, 'bits_per_byte')} bits per byte held out{listed}, {stage['seconds']:.0f} s"


def _spent(total: float, report: dict[str, Any]) -> str:
    count = report["candidates"]["done"] + report["candidates"]["failed"]
    return f"{total:.0f} s, {total / max(1, count):.1f} s a candidate"
