"""`fulcrum merge`: one model out of several that were trained from one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption

if TYPE_CHECKING:
    from trainer.checkpoint import Checkpoint
    from trainer.merge.recipe import MergeRecipe
    from trainer.merge.verdict import HeldOut, Verdict

_UNITS = {"bits_per_byte": "bits per byte", "nats": "nats a token of the answers"}


def merge(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints, or Hugging Face folders of Lfm2 models.")],
    out: Annotated[Path, typer.Option(help="Directory that the merged model is kept in, if it wins.")],
    corpus: Annotated[
        list[Path] | None, typer.Option(help="A prepared corpus to judge by; every source of every corpus counts once.")
    ] = None,
    chats: Annotated[
        list[Path] | None,
        typer.Option(help="In the place of corpora: JSONL or Parquet of conversations that no model has learnt."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="What all of them were trained from.")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="linear, slerp; with a base: task_arithmetic, ties, dare_linear, dare_ties, della_linear, della, "
            "model_stock."
        ),
    ] = "ties",
    weights: Annotated[
        str | None, typer.Option(help="One number per model, with commas; searched for without it.")
    ] = None,
    density: Annotated[float, typer.Option(help="ties, dare, della: share of each task vector that is kept.")] = 0.5,
    epsilon: Annotated[float, typer.Option(help="della: how far the share varies with magnitude.")] = 0.15,
    scale: Annotated[float, typer.Option(help="Of the merged task vector.")] = 1.0,
    seed: Annotated[int, typer.Option(help="dare, della: of what is dropped.")] = 0,
    evaluations: Annotated[int, typer.Option(min=1, help="Merges to try in the search for weights.")] = 40,
    sequence: Annotated[int, typer.Option(min=8, help="Tokens of a held-out window.")] = 128,
    windows: Annotated[int, typer.Option(min=2, help="Held-out windows of every source.")] = 128,
    json: JsonOption = False,
) -> None:
    """Merge models, and keep the result only if it beats each of them on the mean over what was held out.

    Weights are searched on one half of the held-out windows or conversations; the table is of the other half.

    Examples:

        fulcrum merge code/sealed/5d0c prose/sealed/77ab --base base/sealed/01fe --corpus both --out merged

        fulcrum merge sums words --base base --chats sums.jsonl --chats words.jsonl --out merged

        fulcrum merge a b --method slerp --weights 0.6,0.4 --corpus code --corpus prose --out merged

        fulcrum merge a b c --base base --method della --density 0.6 --corpus all --out merged --json
    """
    from trainer.chat import OwnTemplate
    from trainer.checkpoint import gathered, seal
    from trainer.merge.verdict import merge_and_judge

    recipe = _recipe(method, weights, density, epsilon, scale, seed)
    _refuse_twice(models)
    parents = {_name(path, models): gathered(path, out / "parents") for path in models}
    origin = gathered(base, out / "parents") if base else None
    held_out = _held_out(corpus or [], chats or [], next(iter(parents.values())), sequence, windows)
    with _Bar() as bar:
        ended = merge_and_judge(recipe, parents, origin, held_out, evaluations=evaluations, report=bar.report)
    first = next(iter(parents.values()))
    template = OwnTemplate.of(first.directory)
    kept = seal(ended.model, out / "sealed", first.tokenizer, template=template) if ended.won else None
    unit = "nats" if chats else "bits_per_byte"
    _as_json(ended, kept, unit) if json else _as_table(ended, kept, unit)


def _recipe(method: str, weights: str | None, density: float, epsilon: float, scale: float, seed: int) -> "MergeRecipe":
    from pydantic import ValidationError

    from trainer.errors import MergeError
    from trainer.merge.recipe import MergeRecipe

    fields = {"method": method, "density": density, "epsilon": epsilon, "scale": scale, "seed": seed}
    try:
        numbers = tuple(float(part) for part in weights.split(",")) if weights is not None else None
        return MergeRecipe.model_validate(fields | {"weights": numbers})
    except ValidationError as wrong:
        said = "; ".join(".".join(map(str, e["loc"])) + f" {e['msg']}" for e in wrong.errors())
        raise MergeError(f"this cannot be a merge: {said.strip()}", advice="see fulcrum merge --help") from wrong
    except ValueError as wrong:
        raise MergeError(f"{weights!r} are no weights", advice="say numbers with commas: 0.6,0.4") from wrong


def _held_out(corpora: list[Path], chats: list[Path], model: "Checkpoint", sequence: int, windows: int) -> "HeldOut":
    from trainer.chat import template_of
    from trainer.data import Corpus
    from trainer.dialogues import Dialogues
    from trainer.errors import MergeError
    from trainer.merge.answers import held_out_answers
    from trainer.merge.text import held_out_text

    if bool(corpora) == bool(chats):
        raise MergeError("models are compared by one of text and conversations", advice="say --corpus or --chats")
    tokenizer = model.tokenizer
    if chats:
        template = template_of(model.directory, tokenizer)
        opened = {_name(path, chats): Dialogues.open(path, tokenizer, template) for path in chats}
        return held_out_answers(opened, sequence=sequence)
    read = {_name(path, corpora): Corpus.open(path) for path in corpora}
    return held_out_text(read, tokenizer, sequence=sequence, windows=windows)


def _refuse_twice(models: list[Path]) -> None:
    from trainer.errors import MergeError

    for path in models:
        if sum(other.resolve() == path.resolve() for other in models) > 1:
            raise MergeError(f"{path} is named twice", advice="give it more weight: --weights")


def _name(path: Path, among: list[Path]) -> str:
    """Short, where that tells it apart from the others."""
    alike = [other for other in among if other.resolve().name == path.resolve().name]
    return path.resolve().name[:12] if len(alike) == 1 else str(path)


class _Bar:
    def __enter__(self) -> "_Bar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task("merging", total=None)
        return self

    def report(self, done: int, total: int, best: float) -> None:
        self._bar.update(self._task, description=f"searching weights, {best:.4f}", completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _as_json(ended: "Verdict", kept: "Checkpoint | None", unit: str) -> None:
    import json

    found = {
        "recipe": ended.recipe.model_dump(),
        unit: [{"name": row.name, unit: row.figures, "mean": row.mean} for row in (*ended.parents, ended.merge)],
        "kept": kept is not None,
        "checkpoint": str(kept.directory) if kept else None,
    }
    typer.echo(json.dumps(found, indent=2))


def _as_table(ended: "Verdict", kept: "Checkpoint | None", unit: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Held-out {_UNITS[unit]}, lower is better: {ended.recipe.method}")
    table.add_column("model")
    for name in ended.merge.figures:
        table.add_column(name, justify="right")
    table.add_column("mean", justify="right")
    for row in (*ended.parents, ended.merge):
        cells = [f"{value:.4f}" for value in (*row.figures.values(), row.mean)]
        table.add_row(row.name, *cells, style="bold" if row is ended.merge else None)
    Console().print(table)
    if ended.recipe.weights is not None:
        typer.echo("Weights: " + ", ".join(f"{weight:g}" for weight in ended.recipe.weights))
    if kept:
        typer.echo(f"The merge beats every parent on the mean.\nCheckpoint: {kept.directory}")
    else:
        typer.echo(f"The merge does not beat {ended.best_parent.name} on the mean: it was not kept.")
