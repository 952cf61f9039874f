"""`fulcrum evaluate`: what a trained model makes of a long context."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, HomeOption, JsonOption, ServerOption
from server.cli.trained import SOURCE_HELP, load

if TYPE_CHECKING:
    from trainer.evaluate import Recall, Report

_COLUMNS = {"length": 9, "needle": 8, "multi": 8, "key-value": 10, "multi by quarter": 24, "bits/byte": 10, "at end": 8}


def evaluate(
    source: Annotated[str, typer.Argument(metavar="CHECKPOINT_OR_RUN", help=SOURCE_HELP)],
    lengths: Annotated[str, typer.Option(help="Tokens of the contexts, separated by commas.")] = "256,1024,4096",
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text that the model has not seen; repeatable. Without: Python's standard library."),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Windows behind each recall.")] = 32,
    windows: Annotated[int, typer.Option(min=1, max=10_000, help="Windows of text behind bits per byte.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds ask the same.")] = 0,
    quantised: Annotated[bool, typer.Option("--quantised", help="With the phone's 4-bit numerics.")] = False,
    json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Ask a model for what lies far back in its context, and see how well it predicts text by position.

    Needles are random tokens in real text, so a small model can be asked too: one, eight, or a window of nothing but
    keys and values. Quarters are of the context, the first farthest back. What it takes of memory is known before.

    Examples:

        fulcrum evaluate runs/9a1b/sealed/5fbd... --lengths 4096,32768 --text book.txt

        fulcrum evaluate 9a1b... --lengths 256,2048,8192 --json
    """
    from trainer.evaluate import Text
    from trainer.evaluate import evaluate as evaluated
    from trainer.memory import return_large_blocks

    wanted = _lengths(lengths)
    trained = load(source, home, server, quantised=quantised)
    return_large_blocks()
    vocabulary = trained.model.architecture.vocab_size
    read = Text.of(_documents(text), trained.tokenizer, vocabulary, (max(wanted) + 1) * windows)
    reports = evaluated(trained.model, read, wanted, count=episodes, windows=windows, seed=seed)
    if json:
        _print_json(trained.name, reports)
        return
    typer.echo(" ".join(f"{name:>{width}}" for name, width in _COLUMNS.items()))
    for report in reports:
        typer.echo(_row(report))


def _lengths(given: str) -> list[int]:
    try:
        found = [int(part) for part in given.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no list of numbers", param_hint="--lengths") from None
    if not found or min(found) < 64 or max(found) > 1 << 24:
        raise typer.BadParameter("a length is from 64 to 16,777,216 tokens", param_hint="--lengths")
    return found


def _documents(text: list[Path] | None) -> Iterator[str]:
    from trainer.sources import Source

    for source in [Source.at(path) for path in text] if text else [Source(format="stdlib")]:
        yield from source.documents()


def _row(report: "Report") -> str:
    return (
        f"{report.length:>9,} {report.needle.recall:>8.2f} {report.multi_needle.recall:>8.2f}"
        f" {report.key_value.recall:>10.2f} {_quarters(report.multi_needle):>24} {report.bits_per_byte:>10.3f}"
        f" {report.by_position[-1].bits_per_byte:>8.3f}   {report.memory_bytes / 2**30:.2f} GiB, {report.seconds:.0f} s"
    )


def _quarters(found: "Recall") -> str:
    return " ".join("-" if share is None else f"{share:.2f}" for share in found.by_depth)


def _print_json(name: str, reports: "Iterator[Report]") -> None:
    from json import dumps

    rows = [report.model_dump(mode="json") for report in reports]
    typer.echo(dumps({"model": name, "lengths": rows}, indent=2))
