"""`fulcrum synthesise`: a larger model makes training conversations, by a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from server.cli.local import stoppable
from server.cli.options import JsonOption

if TYPE_CHECKING:
    from trainer.synthesis import Recipe, Report
    from trainer.tutors import Prices, Tutor, Usage

_KEY = "FULCRUM_TUTOR_KEY"
_SHOWN = 400  # characters of an example that was removed
TUTOR_HELP = "endpoint:URL#MODEL (URL up to /v1), folder:PATH of transformers, or checkpoint:PATH of ours."


class _RecipeFirst(TyperGroup):
    """`fulcrum synthesise RECIPE` is `fulcrum synthesise run RECIPE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RecipeFirst,
    no_args_is_help=True,
    epilog="fulcrum synthesise RECIPE is short for fulcrum synthesise run RECIPE; see fulcrum synthesise run --help."
    " For example: fulcrum synthesise arithmetic --tutor endpoint:http://127.0.0.1:8000/v1#qwen --out maths",
)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A file of YAML or JSON, or the name of one that is shipped.")],
    tutor: Annotated[str, typer.Option(help=TUTOR_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the examples; run again to go on.")],
    judge: Annotated[str | None, typer.Option(help="Who scores, where a recipe wants it; else the tutor.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Seeds at most; a larger limit goes on later.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the first prompts and ask nobody.")] = False,
    key_file: Annotated[
        Path | None, typer.Option(help=f"File with the endpoint's key; else the variable {_KEY}, if set.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Endpoint: requests at once.")] = 8,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Endpoint: no faster than this.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Endpoint: of prompts and answers.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Endpoint: seconds for one answer.")] = 120.0,
    patience: Annotated[float, typer.Option(min=0, help="Endpoint: seconds of outage to wait through.")] = 600.0,
    prompt_price: Annotated[float, typer.Option(min=0, help="Of a million tokens read.")] = 0.0,
    completion_price: Annotated[float, typer.Option(min=0, help="Of a million tokens said.")] = 0.0,
    context: Annotated[int, typer.Option(min=2, help="Checkpoint: positions of prompt and answer.")] = 4096,
    json: JsonOption = False,
) -> None:
    """Make conversations for `fulcrum train`'s stage sft: OUT/examples.jsonl, each with where it came from.

    Ctrl-C ends after the 64 seeds under way, a second one at once. Killed at any moment, the same command goes on and
    ends with the same file; answers of an endpoint are kept in OUT/answers and not paid for twice. `run` may be left
    out.

    Examples:

        fulcrum synthesise run arithmetic --tutor endpoint:http://127.0.0.1:8000/v1#qwen --out maths --limit 1000

        fulcrum synthesise reading --tutor folder:models/lfm2 --out reading --dry-run

        FULCRUM_TUTOR_KEY=$(cat key) fulcrum synthesise my.yaml --tutor endpoint:https://api.example.org/v1#large \\
            --out made --requests-per-minute 500 --patience 7200 --prompt-price 0.5 --completion-price 2

        fulcrum synthesise inspect maths
    """
    from trainer.synthesis import read_recipe, synthesise
    from trainer.tutors import Prices

    read = read_recipe(recipe)
    if dry_run:
        _show_prompts(read, limit or 1)
        return
    endpoint = {
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "timeout": timeout,
        "patience": patience,
    }
    prices = Prices(prompt=prompt_price, completion=completion_price)
    asked = _tutor(tutor, out, prices, endpoint, key_file, context)
    judging = _tutor(judge, out, prices, endpoint, key_file, context) if judge else None
    with stoppable() as stop, _Bar() as bar:
        report = synthesise(read, asked, out, judge=judging, limit=limit, told=bar.told, heard=bar.heard, stop=stop)
    if json:
        typer.echo(report.model_dump_json(indent=2))
        return
    _print(report)
    typer.echo(f"{out / 'examples.jsonl'}; fulcrum synthesise inspect {out} shows what was removed")


@app.command()
def inspect(
    out: Annotated[Path, typer.Argument(help="A folder that `fulcrum synthesise` made, or is making.")],
    examples: Annotated[int, typer.Option(min=0, help="Of each filter's removals, and of what stayed.")] = 1,
    json: JsonOption = False,
) -> None:
    """Yields and costs per filter, with examples of what was removed and of what stayed.

    Examples:

        fulcrum synthesise inspect maths --examples 3
    """
    from trainer.synthesis import Report, SynthesisError

    if not (out / "state.json").is_file():
        raise SynthesisError(f"{out} holds no synthesis", advice="name what --out named")
    report = Report.read(out)
    removed = _first_rows(out / "removed.jsonl", examples, lambda row: str(row["filter"]))
    kept = _first_rows(out / "examples.jsonl", examples, lambda _: "kept")
    if json:
        from json import dumps

        shown = {"report": report.model_dump(), "removed": removed, "kept": kept.get("kept", [])}
        typer.echo(dumps(shown, ensure_ascii=False, indent=2))
        return
    _print(report)
    for name, rows in removed.items():
        for row in rows:
            typer.secho(f"\nremoved by {name}: {row['why']} ({row['provenance']['seed']})", fg=typer.colors.YELLOW)
            values = row["provenance"]["values"]
            typer.echo(_cut(list(values.values())[-1]))
    for row in kept.get("kept", []):
        typer.secho(f"\nkept ({row['provenance']['seed']})", fg=typer.colors.GREEN)
        for message in row["messages"]:
            typer.echo(f"{message['role']}: {_cut(message['content'])}")


def _tutor(
    named: str, out: Path, prices: "Prices", endpoint: dict[str, Any], key_file: Path | None, context: int
) -> "Tutor":
    kind, _, where = named.partition(":")
    match kind, where:
        case "endpoint", str(address) if "#" in address:
            import os

            from trainer.tutors.cache import AnswerCache
            from trainer.tutors.endpoint import Endpoint, EndpointOptions
            from trainer.tutors.secret import Secret

            url, _, model = address.rpartition("#")
            key = Secret.from_environment(_KEY) if _KEY in os.environ else None
            if key_file:
                key = Secret.from_file(key_file)
            options = EndpointOptions.model_validate({"url": url, "model": model, **endpoint})
            return Endpoint(options, key=key, cache=AnswerCache(out / "answers"), prices=prices)
        case "folder", str(path) if path:
            from trainer.tutors.folder import FolderTutor

            return FolderTutor.open(Path(path), prices)
        case "checkpoint", str(path) if path:
            from trainer.tutors.checkpoint import OurTutor

            return OurTutor.open(Path(path), context=context, prices=prices)
    raise typer.BadParameter(f"{named!r} is not {TUTOR_HELP}", param_hint="--tutor")


def _show_prompts(recipe: "Recipe", seeds: int) -> None:
    """The first step's prompts; those of later steps hold answers, in whose place their names stand."""
    from trainer.synthesis.candidate import Candidate
    from trainer.synthesis.run import questions
    from trainer.synthesis.seeds import from_

    for number, seed in from_(recipe.seeds, recipe.seed, 0, seeds):
        values = dict(seed.values)
        for step in recipe.steps:
            (question,) = questions(recipe, step, [Candidate(number, seed, values=values)])
            typer.secho(f"--- {seed.id}, step {step.name}, {question.samples} answers", fg=typer.colors.CYAN)
            for message in question.messages:
                typer.secho(f"{message.role}:", bold=True)
                typer.echo(message.content)
            values[step.name] = f"[what step {step.name} answers]"


class _Bar:
    """How far it is: seeds, examples, answers under way, and the cost so far; lines without a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("asking", total=None)
        self._reached = ""

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def told(self, report: "Report") -> None:
        """A block is done."""
        self._reached = f"{report.seeds:,} seeds, {report.examples:,} examples, cost {report.cost:,.4f}; "
        if not self._console.is_terminal:
            self._console.print(self._reached.rstrip("; "), markup=False, highlight=False, soft_wrap=True)

    def heard(self, usage: "Usage") -> None:
        """One answer came."""
        known = f", {usage.cached:,} known before" if usage.cached else ""
        again = f", {usage.retries:,} asked again" if usage.retries else ""
        said = f"{self._reached}{usage.answers:,} answers{known}{again}, {usage.cost:,.4f} paid now"
        self._bar.update(self._task, description=said)


def _print(report: "Report") -> None:
    typer.echo(
        f"{report.recipe}: {report.seeds:,} seeds, {report.examples:,} examples; {report.prompt_tokens:,} tokens read,"
        f" {report.tokens:,} said, cost {report.cost:,.4f}"
    )
    typer.echo(f"{'step or filter':<32} {'seen':>8} {'removed':>8} {'yield':>7} {'tokens lost':>12} {'cost lost':>10}")
    for name, sieve in report.sieves.items():
        share = 1 - sieve.removed / sieve.seen if sieve.seen else 0.0
        lost = f"{sieve.tokens:>12,} {sieve.cost:>10,.4f}"
        typer.echo(f"{name:<32} {sieve.seen:>8,} {sieve.removed:>8,} {share:>7.1%} {lost}")


def _first_rows(path: Path, count: int, key: Any) -> dict[str, list[dict[str, Any]]]:
    from json import loads

    found: dict[str, list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break  # it is being written
            row = loads(line)
            rows = found.setdefault(key(row), [])
            if len(rows) < count:
                rows.append(row)
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
