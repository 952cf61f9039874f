"""How searches, candidates and runs look in a terminal."""

import math
import sys
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal

from pydantic import BaseModel, TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from device_agent.contracts import CheckStep, Comparison, Fault, Figure, Measurement, Profile, WorkloadProfile
from search.candidate import Candidate, Phase, Verdict
from search.objectives import errors
from server.api.views import CandidateView, RunView, SearchView, SelfCheckView
from server.headlines import Reading, written
from server.runs import TRIES, WorkState
from trainer.architecture import Architecture

_NAMES = ("id", "serial", "search")  # to be copied into the next command
_PIPED_WIDTH = 160  # where nobody looks, what matters is that ids stay whole

console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def as_json(value: BaseModel | Sequence[BaseModel]) -> None:
    """Print the answer of the API as it is."""
    adapter: TypeAdapter[object] = TypeAdapter(type(value) if isinstance(value, BaseModel) else list[BaseModel])
    print_json = adapter.dump_json(value, serialize_as_any=True).decode()
    console.print_json(print_json)


def glyphs(architecture: Architecture) -> str:
    """A letter a block: c for a convolution, A for attention."""
    return "".join("A" if block.operator == "attention" else "c" for block in architecture.blocks)


def new_table(title: str, *columns: str) -> Table:
    """An empty table; columns whose name begins with > are numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        name = column.lstrip(">")
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(name, justify=justify, no_wrap=name in _NAMES)
    return table


def searches(views: Iterable[SearchView]) -> None:
    """Every search in a line."""
    table = new_table("Searches", "id", "name", "state", ">candidates", ">feasible", ">winner", "progress")
    for view in views:
        winner = "" if view.verdict is None or view.verdict.winner is None else str(view.verdict.winner)
        counts = view.counts
        done = f"{counts.done + counts.failed} of {view.spec.effort.candidates}"
        table.add_row(view.id, view.name, view.state, done, str(counts.feasible), winner, _said(view))
    console.print(table)


def _said(view: SearchView | RunView) -> str:
    again = f"try {view.attempts} of {TRIES}: " if view.state is WorkState.RUNNING and view.attempts > 1 else ""
    return escape(view.fault.message if view.fault else again + view.progress.message)


def fault(what: str, found: Fault) -> None:
    """Why something failed, and what to do about it."""
    console.print(f"[red]{what}:[/] {escape(found.message)} {escape(found.advice)}", soft_wrap=True)


def _standing(view: CandidateView) -> str:
    if view.winner:
        return "[bold green]winner[/]"
    if view.phase is Phase.FAILED:
        return f"[red]failed: {view.fault.slug if view.fault else ''}[/]"
    broken = [name for name, excess in view.violations.items() if excess > 0]
    if broken:
        return f"[yellow]over {', '.join(broken)}[/]"
    return "front" if view.on_front else view.phase if view.phase is not Phase.DONE else "feasible"


def candidates(views: Iterable[CandidateView], title: str = "Candidates") -> None:
    """The leaderboard, best quality first, on the worst phone of each candidate."""
    table = new_table(
        title, ">#", "blocks", ">width", ">ffn", ">params", ">bits/byte", ">TTFT ms", ">decode ms", ">MB", "standing"
    )
    for view in sorted(views, key=lambda v: v.quality.bits_per_byte if v.quality else float("inf")):
        table.add_row(*_shape(view), *_figures(view), _standing(view))
    console.print(table)


def measured(views: Sequence[CandidateView]) -> None:
    """How well decoding was predicted, and by which Programs finalists were measured twice."""
    for phone in dict.fromkeys(serial for view in views for serial in view.predicted):
        off = [abs(math.expm1(error)) for error in errors(views, phone, "decode_ms")]
        if off:
            console.print(
                f"Decode on {phone}, predicted from blocks before it was measured: off by {median(off):.1%} in the "
                f"median of {len(off)} candidates, by {max(off):.1%} at most.",
                markup=False,
            )
    for view in views:
        if view.linked is not None and view.program is not None:
            console.print(
                f"Finalist {view.number}: composed Program {view.program[:12]}, measured again as one file, "
                f"Program {view.linked[:12]}.",
                markup=False,
            )


def _shape(candidate: Candidate) -> list[str]:
    a = candidate.architecture
    return [
        str(candidate.number),
        glyphs(a),
        str(a.width),
        str(a.ffn_width),
        f"{candidate.parameters / 1e6:.2f} M",
    ]


def _figures(candidate: Candidate) -> list[str]:
    quality = f"{candidate.quality.bits_per_byte:.3f}" if candidate.quality else ""
    profiles = list(candidate.profiles.values())
    if not profiles:
        return [quality, "", "", ""]
    worst = max(profiles, key=lambda p: p.decode_ms.value)
    return [
        quality,
        f"{max(p.ttft_ms.value for p in profiles):.1f}",
        f"{worst.decode_ms.value:.3g} [{worst.decode_ms.low:.3g}, {worst.decode_ms.high:.3g}]",
        f"{max(p.peak_memory_bytes for p in profiles) / 1e6:.1f}",
    ]


def verdict(found: Verdict) -> None:
    """Who won, and why."""
    console.print(found.why, markup=False)
    table = new_table("Budgets", "budget", ">bound", ">winner", ">kept with", ">best seen", ">excluded", "binds")
    for report in found.budgets:
        table.add_row(
            report.budget,
            f"{report.bound:g}",
            "" if report.winner_value is None else f"{report.winner_value:.3g}",
            "" if report.keeps_probability is None else f"{100 * report.keeps_probability:.1f} %",
            "" if report.best_value is None else f"{report.best_value:.3g}",
            str(report.excluded),
            "yes" if report.binding else "",
        )
    if found.budgets:
        console.print(table)


def profile(found: Profile, of: Measurement) -> None:
    """One measurement: its figures with their intervals, the phone's condition, and what deserves less trust."""
    virtual = ", virtual: this host's milliseconds" if of.virtual else ""
    table = new_table(f"On {of.serial} by {of.protocol.name}{virtual}", "figure", ">value", ">95 % interval", ">MAD")
    rows: list[tuple[str, Figure | None]] = [
        ("TTFT, ms", found.ttft_ms),
        ("prefill, tokens/s", found.prefill_tokens_per_second),
        ("decode, ms", found.decode_ms),
        ("decode p95, ms", found.decode_p95_ms),
        ("decode p99, ms", found.decode_p99_ms),
        ("load (warm file), ms", found.load_ms),
        *(row for w in found.further for row in _workload(w)),
    ]
    for name, figure in rows:
        if figure is not None:
            table.add_row(name, f"{figure.value:.4g}", f"{figure.low:.4g} to {figure.high:.4g}", f"{figure.mad:.2g}")
    console.print(table)
    if found.cold_load_ms is not None:
        console.print(f"Load with the files out of the page cache: {found.cold_load_ms:.4g} ms.")
    console.print(f"Peak memory above the empty runner: {found.peak_memory_bytes / 1e6:.1f} MB.")
    for w in found.further:
        if w.snapshot_bytes is not None:
            console.print(
                f"Snapshot of {w.workload.prefix_tokens} tokens: {w.snapshot_bytes / 1e6:.2f} MB, "
                f"{w.snapshot_bytes_per_token or 0:.0f} bytes a token."
            )
    for flag in found.flags:
        console.print(f"Flag: {flag}", markup=False)


def _workload(found: WorkloadProfile) -> list[tuple[str, Figure | None]]:
    label = found.workload.label
    if found.restored_ttft_ms is None:
        return [(f"{label}, ms", found.ttft_ms or found.decode_ms)]
    return [
        (f"{label}: TTFT without, ms", found.ttft_ms),
        (f"{label}: TTFT restored, ms", found.restored_ttft_ms),
        (f"{label}: restored / without", found.restored_share),
    ]


def comparison(found: Comparison) -> None:
    """Which of two is faster, or that nothing may be claimed."""
    virtual = " (virtual: this host's milliseconds)" if found.first.virtual else ""
    console.print(f"{found.first.protocol.name} on {found.first.serial}{virtual}, blocks {found.order}")
    console.print(found.verdict, markup=False)
    for letter, side in (("A", found.first), ("B", found.second)):
        for flag in Profile.of(side).flags:
            console.print(f"Flag on {letter}: {flag}", markup=False)


def runs(views: Iterable[RunView]) -> None:
    """Every run in a line."""
    table = new_table("Runs", "id", "name", "state", "search", ">candidate", "progress")
    for view in views:
        table.add_row(view.id, view.name, view.state, view.spec.search, str(view.candidate), _said(view))
    console.print(table)


_CHANGES = {"better": "[green]better[/]", "worse": "[red]worse[/]", "same": "no change", None: ""}


def levers(title: str) -> Table:
    """An empty table of stages, for rows of `lever`; it can be read in 80 columns."""
    table = new_table(title, ">lever", "stage", "figure", ">before", ">after", "", "text, bits per byte", ">time")
    table.box, table.padding = None, (0, 1, 0, 0)
    for column in table.columns:
        column.no_wrap = column.header in ("before", "after", "", "time")
    table.columns[1].min_width = table.columns[2].min_width = len("reinforcement")
    return table


def lever(
    number: int, title: str, headline: Reading, forgetting: Reading | None, seconds: float | None, state: str
) -> tuple[str, ...]:
    """A row of it: a stage's headline before and after, and what became of plain text meanwhile."""
    before, after = (
        "" if value is None else written(value, headline.unit) for value in (headline.before, headline.after)
    )
    return (
        str(number),
        escape(title),
        escape(headline.label),
        before,
        after,
        _CHANGES[headline.change] if state == WorkState.SUCCEEDED else state,
        "" if forgetting is None else _course(forgetting),
        "" if seconds is None else f"{seconds:.0f} s",
    )


def _course(reading: Reading) -> str:
    values = [written(value, reading.unit) for value in (reading.before, reading.after) if value is not None]
    return f"{' -> '.join(values)} {_CHANGES[reading.change]}".strip()


def run(view: RunView, *, figures: bool = False) -> None:
    """A run: its stages by their headlines or by all `figures`, and what the phone said."""
    title = f"Run {view.id} ({view.state})"
    if figures:
        console.print(_all_figures(title, view))
    else:
        table = levers(title)
        for stage in view.stages:
            table.add_row(
                *lever(stage.lever, stage.title, stage.headline, stage.forgetting, stage.seconds, stage.state)
            )
        console.print(table)
        for stage in view.stages:
            if stage.notes and stage.after:
                console.print(f"{stage.title}: {' '.join(stage.notes)}", markup=False)
    for serial, profile in view.profiles.items():
        note = " (virtual: this host's milliseconds)" if view.generation and view.generation.virtual else ""
        console.print(
            f"On {serial}{note}: {1e3 / profile.decode_ms.value:.0f} tokens/s, first token after "
            f"{profile.ttft_ms.value:.1f} ms, peak {profile.peak_memory_bytes / 1e6:.1f} MB."
        )
    if view.text is not None:
        console.print("It continues the prompt:")
        console.print(view.spec.prompt, style="dim", end="", markup=False, highlight=False)
        console.print(view.text, style="bold", markup=False, highlight=False)
    if check := view.check:
        ties = "".join(
            f" At {tie.position} PyTorch prefers another token by {tie.logit_gap:.3g} (a tie up to {tie.bound:.3g})."
            for tie in check.near_ties
        )
        said = "passed" if check.passed else "FAILED"
        console.print(
            f"Token check {said}: {check.agreed} of {check.tokens} tokens are PyTorch's own choice; logits differ by "
            f"at most {check.max_logit_difference:.3g}.{ties}"
        )


def _all_figures(title: str, view: RunView) -> Table:
    table = new_table(title, "stage", "state", "figure", ">before", ">after", ">seconds")
    for stage in view.stages:
        spent = "" if stage.seconds is None else f"{stage.seconds:.0f}"
        names = list(dict.fromkeys((*stage.before, *stage.after))) or [""]
        for place, name in enumerate(names):
            head, tail = ((stage.name, stage.state), spent) if place == 0 else (("", ""), "")
            table.add_row(*head, escape(name), _figure(stage.before, name), _figure(stage.after, name), tail)
    return table


def _figure(figures: dict[str, float], name: str) -> str:
    return number(figures[name]) if name in figures else ""


def check_steps(serial: str, steps: Sequence[CheckStep]) -> None:
    """The steps of a self-check, with their figures."""
    table = new_table(f"Self-check of {serial}", "step", "", "what was seen", "figures")
    for step in steps:
        figures = ", ".join(f"{name} {number(value)}" for name, value in step.figures.items())
        table.add_row(step.name, "[green]ok[/]" if step.ok else "[red]FAILED[/]", escape(step.message), figures)
    console.print(table)


def number(value: float) -> str:
    """About four digits; bytes are whole, milliseconds are not."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def self_check(check: SelfCheckView) -> None:
    """A self-check that is finished."""
    if check.steps:
        check_steps(check.serial, check.steps)
    if check.fault:
        fault("No result", check.fault)
    verdict = "[bold green]passed[/]" if check.passed else "[bold red]not passed[/]"
    console.print(f"{check.serial}: {verdict}" + (f" with {escape(check.runner)}" if check.runner else ""))
