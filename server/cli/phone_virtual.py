"""`fulcrum phone virtual`: a phone made of software."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import DEFAULT_HOME


def virtual(
    root: Annotated[Path, typer.Option("--root", help="The phone's directory; made on first use.")] = DEFAULT_HOME
    / "phone",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of its ADB daemon; 0 takes one.")] = 5599,
    host: Annotated[str, typer.Option("--host", help="A loopback address.")] = "127.0.0.1",
    accept_first_key: Annotated[
        bool,
        typer.Option("--accept-first-key", help="Accept the first key presented, as its prompt would; none after."),
    ] = False,
) -> None:
    """Start an ADB daemon on loopback that answers like a Galaxy S24 and runs programs on this host.

    Its first line of output is its address. What it measures are this host's milliseconds, and it says so. Keys that
    it accepts stand in DIR/data/misc/adb/adb_keys.

    Examples:

        fulcrum phone virtual --port 5599 --root .fulcrum/phone --accept-first-key

        adb connect 127.0.0.1:5599
    """
    from device_agent.virtual.serve import serve

    serve(root, host, port, accept_first_key, typer.echo)
