"""`fulcrum curate`: the conversations that are worth training on, and what became of the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.options import JsonOption

if TYPE_CHECKING:
    from trainer.curation import Curation


def curate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="JSONL (also .gz, .zst) or Parquet of conversations.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL to write.")],
    report: Annotated[Path | None, typer.Option(help="JSON of what each filter removed, with examples.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Judges how hard each answer is; repeat it for an ensemble.")
    ] = None,
    shortest: Annotated[int, typer.Option(min=1, help="Characters of the answers, at least.")] = 1,
    longest: Annotated[int, typer.Option(min=1, help="Characters of a conversation, at most.")] = 100_000,
    quality: Annotated[float, typer.Option(min=0, max=1, help="Share of the heuristics to pass; 0 for none.")] = 1.0,
    conflicts: Annotated[
        str, typer.Option(help="Different answers to one prompt: list them, keep the majority, or drop them.")
    ] = "list",
    exact: Annotated[bool, typer.Option("--exact/--no-exact", help="Remove exact duplicates.")] = True,
    near: Annotated[float, typer.Option(min=0, max=1, help="Similarity of near duplicates; 0 keeps them.")] = 0.9,
    easiest: Annotated[float | None, typer.Option(min=0, help="Nats a token of the answer, at least.")] = None,
    hardest: Annotated[float | None, typer.Option(min=0, help="Nats a token of the answer, at most.")] = None,
    solved_least: Annotated[
        float | None, typer.Option(min=0, max=1, help="Success rate of the checkpoints, at least.")
    ] = None,
    solved_most: Annotated[
        float | None, typer.Option(min=0, max=1, help="Success rate of the checkpoints, at most.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Answers of each checkpoint to every prompt whose answer can be verified.")
    ] = 0,
    temperature: Annotated[float, typer.Option(help="Of these answers.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of such an answer.")] = 64,
    keep: Annotated[int | None, typer.Option(min=1, help="Keep so many that are as different as can be.")] = None,
    order: Annotated[bool, typer.Option("--order/--no-order", help="Easy to hard, if checkpoints judge.")] = True,
    sequence: Annotated[int, typer.Option(min=8, help="Tokens of a conversation that checkpoints judge.")] = 1024,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count malformed rows; refused without it.")] = False,
    json: JsonOption = False,
) -> None:
    """Filter conversations: length, quality, conflicts, duplicates, difficulty, success, diversity, in that order.

    Rows stay as they are, with their scores under `curation`. Equal input gives equal output.

    Examples:

        fulcrum curate chats.jsonl clean.jsonl --report report.json

        fulcrum curate chats.jsonl clean.jsonl --conflicts majority --near 0.8 --skip-bad

        fulcrum curate chats.jsonl hard.jsonl --checkpoint a/sealed/5d0c --checkpoint b/sealed/77ab --easiest 0.2

        fulcrum curate sums.jsonl learnable.jsonl --checkpoint a --checkpoint b --samples 8 --solved-least 0.1

        fulcrum curate chats.jsonl small.jsonl --keep 1000 --json
    """
    from trainer.checkpoint import Checkpoint
    from trainer.curation import curate as curated
    from trainer.dialogues import Skipped, conversations

    asked = _asked(
        shortest=shortest,
        longest=longest,
        quality=quality or None,
        conflicts=conflicts,
        exact_duplicates=exact,
        near_duplicates=near or None,
        easiest=easiest,
        hardest=hardest,
        solved_least=solved_least,
        solved_most=solved_most,
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        keep=keep,
        order=order,
    )
    wanted = [asked.easiest, asked.hardest, asked.solved_least, asked.solved_most, asked.samples or None]
    _refuse(source, out, judged=bool(checkpoint), wanted=any(each is not None for each in wanted))
    skipped = Skipped()
    rows = list(conversations([source], skipped, "skip" if skip_bad else "refuse"))
    with _Bar() as bar:
        found = curated(
            rows,
            asked,
            skipped=skipped,
            checkpoints=[Checkpoint(path) for path in checkpoint or []],
            sequence=sequence,
            report=bar.report,
        )
    _write(out, found.rows)
    if report is not None:
        _replace(report, _dumped(found.report))
    typer.echo(_dumped(found.report)) if json else _as_table(found.report)


def _asked(**fields: Any) -> "Curation":
    from pydantic import ValidationError

    from server.cli.words import mistakes
    from trainer.curation import Curation

    try:
        return Curation.model_validate(fields)
    except ValidationError as wrong:
        raise typer.BadParameter(mistakes(wrong).strip()) from wrong


def _refuse(source: Path, out: Path, *, judged: bool, wanted: bool) -> None:
    if source.resolve() == out.resolve():
        raise typer.BadParameter("OUT is IN: name another file, so that nothing is lost", param_hint="OUT")
    if wanted and not judged:
        raise typer.BadParameter(
            "difficulty, success and samples need a --checkpoint that judges", param_hint="--checkpoint"
        )


def _dumped(found: dict[str, Any]) -> str:
    from json import dumps

    return dumps(found, ensure_ascii=False, indent=2)


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    _replace(out, "".join(_line(row) + "\n" for row in rows))


def _line(row: dict[str, Any]) -> str:
    """A row's other keys may hold what JSON can only escape (half a surrogate pair), and a table's dates are words."""
    from json import dumps

    text = dumps(row, ensure_ascii=False, default=str)
    return text if text.isascii() or text.encode(errors="ignore").decode() == text else dumps(row, default=str)


def _replace(path: Path, text: str) -> None:
    """Whole or not at all."""
    from trainer.files import fsync_directory, write_text

    draft = path.with_name(f".{path.name}.draft")
    write_text(draft, text)
    draft.replace(path)
    fsync_directory(path.parent)


def _as_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['rows']:,} rows, {found['kept']:,} kept")
    for name in ("filter", "before", "removed", "would remove alone", "an example"):
        table.add_column(name, justify="left" if name in ("filter", "an example") else "right")
    if found["bad_rows"]:
        bad = sum(found["bad_rows"].values())
        table.add_row("malformed", f"{found['rows']:,}", f"{bad:,}", f"{bad:,}", found["bad_examples"][0]["why"])
    for step in found["filters"]:
        example = step["examples"][0] if step["examples"] else {"why": "", "answer": ""}
        said = f"{example['why']}: {example['answer'][:40]!r}" if example["why"] else ""
        counts = [f"{step[name]:,}" for name in ("before", "removed", "removed_alone")]
        table.add_row(step["name"].replace("_", " "), *counts, said)
    Console().print(table)
    if found["conflicts"]["prompts"]:
        typer.echo(f"{found['conflicts']['prompts']:,} prompts have different answers; --report lists them.")


class _Bar:
    def __enter__(self) -> "_Bar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task("curating", total=None)
        return self

    def report(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what.replace("_", " "), completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
