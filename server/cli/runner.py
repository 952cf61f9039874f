"""`fulcrum runner`: the program that phones run."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import DEFAULT_HOME

app = typer.Typer(no_args_is_help=True)


@app.command()
def build(
    directory: Annotated[Path, typer.Option("--dir", help="Where the bundle goes.")] = DEFAULT_HOME / "runner",
) -> None:
    """Build the host runner, which virtual phones run, against the installed ExecuTorch.

    A phone of glass and metal needs the same source (device_agent/runner/native) built with Android's NDK against
    ExecuTorch's Android libraries; describe it in a runner.json of its own and give it to the agent with --runner.

    Example:

        fulcrum runner build --dir .fulcrum/runner
    """
    from device_agent.runner.build import build as build_bundle

    bundle = build_bundle(directory)
    typer.echo(f"{bundle.label} for {bundle.manifest.abi} in {directory}")
