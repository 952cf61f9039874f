"""`fulcrum run`: train a winner, and hear it on the phone."""

import sys
from typing import Annotated

import typer

from server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, connect

app = typer.Typer(no_args_is_help=True)

_SHOWN = 200  # points that a line of bars is made of

Id = Annotated[str, typer.Argument(help="The run's id, from `fulcrum run list`.")]


@app.command()
def submit(
    search: Annotated[str, typer.Argument(help="The search whose candidate to train.")],
    candidate: Annotated[int | None, typer.Option(help="Its number; the winner without it.")] = None,
    prompt: Annotated[str, typer.Option(help="What the phone continues at the end.")] = "def __init__(self",
    new_tokens: Annotated[int, typer.Option(min=1, help="How far it continues.")] = 32,
    phone: Annotated[str | None, typer.Option(help="Serial; the search's first phone without it.")] = None,
    teacher_tokens: Annotated[int | None, typer.Option(help="Tokens the teacher is trained on.")] = None,
    pretrain_tokens: Annotated[int | None, typer.Option(help="Tokens of pretraining with distillation.")] = None,
    qat_tokens: Annotated[int | None, typer.Option(help="Tokens of 4-bit quantisation-aware training.")] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:OPTION=VALUE,...] in place of teacher, pretrain, qat; see docs/runs.md."),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Stay and show progress until it ends.")] = True,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Train a candidate through the stages, export it, measure it on the phone and have it talk there.

    Example:

        fulcrum run submit 5d0c... --prompt "import os" --pretrain-tokens 2000000

        fulcrum run submit 5d0c... --stage teacher --stage pretrain --stage qat:scales=learned,byte_budget=900000

        fulcrum run submit 5d0c... --stage pretrain:teacher=run:9a1b...,schedule=cosine --stage ptq:method=gptq

        fulcrum run submit 5d0c... --stage teacher --stage pretrain --stage sft:of=teacher,data=SHA256 \\
            --stage synthesise:recipe=arithmetic,limit=500 --stage sft --stage qat
    """
    from server.cli.stages import parse_stage
    from server.runs import RunSpec, StageRequest

    tokens = {"teacher": teacher_tokens, "pretrain": pretrain_tokens, "qat": qat_tokens}
    asked = (
        [parse_stage(text) for text in stage] if stage else [StageRequest.model_validate({"name": n}) for n in tokens]
    )
    stages = tuple(
        each.model_copy(update={"tokens": tokens[each.name]}) if each.tokens is None and each.name in tokens else each
        for each in asked
    )
    spec = RunSpec(
        search=search,
        candidate=candidate,
        prompt=prompt,
        new_tokens=new_tokens,
        phone=phone,
        stages=stages,
    )
    with connect(server) as client:
        view = client.submit_run(spec)
    typer.echo(f"Run {view.id} is {view.state}: {server}/#view=runs&run={view.id}")
    if watch:
        _watch(server, view.id)


def _watch(server: str, run: str) -> None:
    from server.cli import show
    from server.cli.watch import follow_run, on_leaving

    with connect(server) as client, on_leaving(f"The run goes on; see it again: fulcrum run watch {run}"):
        view = follow_run(client, run)
    show.run(view)
    if view.fault:
        show.fault("The run failed", view.fault)
        raise typer.Exit(1)


@app.command()
def watch(run: Id, server: ServerOption = DEFAULT_SERVER) -> None:
    """Show progress until the run ends, then what came of it.

    Example:

        fulcrum run watch 9a1b...
    """
    _watch(server, run)


@app.command("list")
def list_(server: ServerOption = DEFAULT_SERVER, json: JsonOption = False) -> None:
    """Every run, newest first.

    Example:

        fulcrum run list --json
    """
    from server.cli import show

    with connect(server) as client:
        views = client.runs()
    show.as_json(views) if json else show.runs(views)


@app.command("show")
def show_(
    run: Id,
    figures: Annotated[bool, typer.Option("--figures", help="All figures of each stage, not its headline.")] = False,
    server: ServerOption = DEFAULT_SERVER,
    json: JsonOption = False,
) -> None:
    """One run: what each stage did, its last metrics, its figures on the phone, and what it said.

    Examples:

        fulcrum run show 9a1b...

        fulcrum run show 9a1b... --figures
    """
    from server.cli import metrics as metrics_
    from server.cli import show

    with connect(server) as client:
        view = client.run(run)
        series = [] if json else client.run_metrics(run, limit=_SHOWN)
    if json:
        show.as_json(view)
        return
    show.run(view, figures=figures)
    if told := metrics_.latest(series):
        metrics_.table(told)


@app.command()
def metrics(
    run: Id,
    stage: Annotated[str | None, typer.Option(help="Name of a stage or its position, from 0; all without it.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="A metric, as loss; again for more; all without it.")] = None,
    points: Annotated[int, typer.Option(min=2, max=1000, help="At most so many of each stage, evenly spread.")] = 1000,
    csv: Annotated[bool, typer.Option("--csv", help="Print a line a point.")] = False,
    server: ServerOption = DEFAULT_SERVER,
    json: JsonOption = False,
) -> None:
    """What a run's stages told as they trained: loss, bits per byte held out, tokens/s, gradient norm, ...

    Example:

        fulcrum run metrics 9a1b... --stage pretrain --name loss --name bits_per_byte --csv > pretrain.csv
    """
    from server.cli import metrics as metrics_
    from server.cli import show

    with connect(server) as client:
        series = client.run_metrics(run, names=tuple(name or ()), limit=points)
    series = metrics_.chosen(series, stage)
    if json:
        show.as_json(series)
    elif csv:
        metrics_.as_csv(series, sys.stdout)
    else:
        for each in series:
            metrics_.table(each)


@app.command()
def cancel(run: Id, server: ServerOption = DEFAULT_SERVER) -> None:
    """Stop a run; its checkpoints stay.

    Example:

        fulcrum run cancel 9a1b...
    """
    with connect(server) as client:
        typer.echo(f"Run {run} is {client.cancel_run(run).state}.")


@app.command()
def resume(run: Id, server: ServerOption = DEFAULT_SERVER) -> None:
    """Go on with a run that failed or was cancelled, from its last checkpoint.

    Example:

        fulcrum run resume 9a1b...
    """
    with connect(server) as client:
        typer.echo(f"Run {run} is {client.resume_run(run).state}.")
