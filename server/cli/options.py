"""Options that several commands share, and the client that they talk through."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from server.client import Client

ServerOption = Annotated[str, typer.Option("--server", envvar="FULCRUM_SERVER", help="Address of the Fulcrum server.")]
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="FULCRUM_HOME", help="Directory of the database, artifacts and checkpoints.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_HOME = Path(".fulcrum")


def connect(server: str) -> "Client":
    """A client of `server`; the token, if there is one, comes from FULCRUM_TOKEN."""
    from server.client import Client

    return Client(server, os.environ.get("FULCRUM_TOKEN"))
