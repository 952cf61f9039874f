"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ServerOption = Annotated[
    str, typer.Option("--server", envvar="FULCRUM_SERVER", help="Address of the Fulcrum server.", show_default=True)
]
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="FULCRUM_HOME", help="Directory of the database, artifacts and checkpoints.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_HOME = Path(".fulcrum")
