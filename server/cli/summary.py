"""The demo's summary: one table, and the same as JSON."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from search.candidate import Candidate
from search.objectives import bounds, worst
from server.api.views import CandidateView, RunView, SearchView, StageView
from server.cli.show import console, glyphs, lever, levers
from server.client import Client
from server.headlines import Reading

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
        "stages": [_stage(stage) for stage in run.stages],
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


def _stage(stage: StageView) -> dict[str, Any]:
    """A stage with its headline, and all its figures."""
    return {
        "name": stage.name,
        "lever": stage.lever,
        "title": stage.title,
        "metric": stage.headline.figure,
        "before": stage.headline.before,
        "after": stage.headline.after,
        "headline": stage.headline.model_dump(mode="json"),
        "forgetting": None if stage.forgetting is None else stage.forgetting.model_dump(mode="json"),
        "notes": list(stage.notes),
        "figures": {"before": stage.before, "after": stage.after},
        "seconds": stage.seconds,
        "state": stage.state.value,
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
    stages: dict[str, float] = {}  # their steps alone
    for stage in run.stages:
        stages[stage.name] = stages.get(stage.name, 0.0) + (stage.seconds or 0.0)
    return {
        "search": _between(search),
        "per_candidate": {part: sum(row.get(part, 0.0) for row in rows) / max(1, len(rows)) for part in _PARTS},
        "stages": stages,
        "scores_export_measure_and_talk": max(0.0, _between(run) - sum(stages.values())),
        "total": _between(search) + _between(run),
    }


def show_summary(report: dict[str, Any]) -> None:
    """The summary: a table of the levers, and one of the rest."""
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
    console.print(_levers(report["stages"]))
    for stage in report["stages"]:
        if stage["notes"]:
            console.print(f"{stage['title']}: {' '.join(stage['notes'])}", markup=False)
    console.print(table)


def _levers(stages: Iterable[dict[str, Any]]) -> Table:
    table = levers("What each lever did")
    for stage in stages:
        forgetting = None if stage["forgetting"] is None else Reading.model_validate(stage["forgetting"])
        headline = Reading.model_validate(stage["headline"])
        table.add_row(*lever(stage["lever"], stage["title"], headline, forgetting, stage["seconds"], stage["state"]))
    return table


def _spent(total: float, report: dict[str, Any]) -> str:
    count = report["candidates"]["done"] + report["candidates"]["failed"]
    return f"{total:.0f} s, {total / max(1, count):.1f} s a candidate"
