"""What `fulcrum data` prints."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def as_json(value: object) -> None:
    """On standard output."""
    import typer

    typer.echo(json.dumps(value, indent=2))


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error for what preparing reports."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def report(message: str, done: int, total: int) -> None:
            if message not in tasks:
                tasks[message] = bar.add_task(message, total=total)
            bar.update(tasks[message], completed=done, total=total or None)

        yield report


def summary(found: dict[str, Any]) -> None:
    """A table of sources, and the sum."""
    table = Table(title=found["directory"], title_justify="left")
    table.add_column("source", no_wrap=True)
    for name in ("docs", "tokens", "held out", "B/token", "share", "epochs*", "gone"):
        table.add_column(name, justify="right", no_wrap=True)
    for source in found["sources"]:
        removed = sum(about["documents"] for about in source["removed"].values())
        table.add_row(
            escape(source["name"]),
            _short(source["documents"]),
            _short(source["tokens"]),
            _short(source["held_out_tokens"]),
            f"{source['bytes_per_token']:.2f}",
            f"{source['share']:.1%}" + (" " if source["weight"] is None else "w"),
            f"{source['epochs']:.2f}",
            _short(removed),
        )
    console = Console()
    console.print(table)
    console.print(
        f"{found['tokens']:,} training tokens of {found['vocab_size']:,} ids, {found['held_out_tokens']:,} held out, "
        f"{found['shards']} files.\n"
        f"w: by its weight. Gone: removed by cleaning. *: in as many steps as read {found['tokens']:,} tokens.",
        highlight=False,
    )


def _short(number: int) -> str:
    for unit, name in ((1_000_000_000, "G"), (1_000_000, "M")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return f"{number:,}"


def details(found: dict[str, Any]) -> None:
    """Lengths, what cleaning removed with an example of each, and windows."""
    console = Console(highlight=False)
    bins: Counter[str] = Counter()
    for source in found["sources"]:
        bins.update(source["lengths"])
    console.print("\n[bold]Documents by tokens[/bold]")
    for name in sorted(bins, key=lambda text: int(text.split("-")[0])):
        console.print(f"{name:>17} {bins[name]:>9,} {'█' * round(40 * bins[name] / max(bins.values()))}")
    for source in found["sources"]:
        for reason, about in sorted(source["removed"].items(), key=lambda item: -item[1]["documents"]):
            console.print(
                f"\n[bold]Removed from {escape(source['name'])}[/bold]: {about['documents']:,} documents, "
                f"{about['characters']:,} characters. {escape(reason)}. The first:"
            )
            console.print(f"    {escape(' '.join(about['examples'][0].split())[:200])}", style="dim")
    for number, sample in enumerate(found["samples"], start=1):
        console.print(f"\n[bold]Window {number}[/bold]")
        console.print(escape(sample))
