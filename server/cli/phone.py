"""`fulcrum phone`: the fleet."""

from typing import Annotated

import typer

from server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, connect
from server.cli.phone_selfcheck import self_check
from server.cli.phone_virtual import virtual

app = typer.Typer(no_args_is_help=True)
app.command()(virtual)
app.command("test")(self_check)

Serial = Annotated[str, typer.Argument(help="The phone's serial, as its agent names it: host:port on TCP.")]


@app.command()
def add(
    serial: Serial,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Register a phone. It is ready once its agent has proved it by a round trip.

    Example:

        fulcrum phone add 127.0.0.1:5599 --name "Virtual S24"
    """
    from server.cli import show

    with connect(server) as client:
        show.phones([client.register_phone(serial, name, tuple(tag or ()))])


@app.command("list")
def list_(server: ServerOption = DEFAULT_SERVER, json: JsonOption = False) -> None:
    """Every phone, registered or only seen by an agent.

    Example:

        fulcrum phone list --json
    """
    from server.cli import show

    with connect(server) as client:
        views = client.phones()
    show.as_json(views) if json else show.phones(views)


@app.command("show")
def show_(serial: Serial, server: ServerOption = DEFAULT_SERVER) -> None:
    """All that is known of one phone, as JSON.

    Example:

        fulcrum phone show 127.0.0.1:5599
    """
    from server.cli import show

    with connect(server) as client:
        show.as_json(client.phone(serial))


@app.command()
def remove(serial: Serial, server: ServerOption = DEFAULT_SERVER) -> None:
    """Take a phone out of the fleet; what it measured stays.

    Example:

        fulcrum phone remove 127.0.0.1:5599
    """
    with connect(server) as client:
        client.remove_phone(serial)
    typer.echo(f"{serial} is no longer in the fleet.")


@app.command()
def release(serial: Serial, server: ServerOption = DEFAULT_SERVER) -> None:
    """End a phone's quarantine.

    Example:

        fulcrum phone release 127.0.0.1:5599
    """
    from server.cli import show

    with connect(server) as client:
        show.phones([client.release_phone(serial)])
