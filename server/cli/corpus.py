"""`fulcrum corpus`: the text that everything learns from."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, connect

if TYPE_CHECKING:
    from server.api.views import CorpusView
    from server.client import Client

app = typer.Typer(no_args_is_help=True)

_FORMATS = {".jsonl": "jsonl", ".parquet": "parquet"}


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Text, .jsonl or .parquet files.")] = None,
    field: Annotated[str, typer.Option(help="JSONL and Parquet: the field that holds the text.")] = "text",
    python_stdlib: Annotated[
        bool, typer.Option("--python-stdlib", help="This interpreter's own standard library: real code, always there.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Upload files and register them as a corpus; what the server has already is not sent again.

    Examples:

        fulcrum corpus add code --python-stdlib

        fulcrum corpus add mine books/*.txt chats.jsonl --field content
    """
    with connect(server) as client:
        view = add_standard_library(client, name) if python_stdlib else _add_files(client, name, files or [], field)
    typer.echo(_line(view))


def add_standard_library(client: "Client", name: str) -> "CorpusView":
    """Upload the standard library's source as one JSONL file, and register it."""
    from server.api.views import CorpusFile
    from trainer.sources import Source

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for text in Source(format="stdlib").documents():
            file.write(json.dumps({"text": text}) + "\n")
        file.flush()
        sha256 = client.upload(Path(file.name))
    return client.register_corpus(name, (CorpusFile(sha256=sha256, format="jsonl", field="text", name="stdlib"),))


def _add_files(client: "Client", name: str, files: list[Path], field: str) -> "CorpusView":
    from device_agent.contracts import Blame, FulcrumError
    from server.api.views import CorpusFile

    class NoSuchText(FulcrumError):
        blame, slug = Blame.USER, "corpus-missing"

    if not files:
        raise NoSuchText("No files were named.", advice="Name text files, or say --python-stdlib.")
    entries = []
    for path in files:
        if not path.is_file():
            raise NoSuchText(f"{path} is not a file.", advice="Check the path.")
        format_ = _FORMATS.get(path.suffix, "text")
        shown = "".join(c if c.isascii() and (c.isalnum() or c in " ._-") else "-" for c in path.name)[:128]
        entries.append(
            CorpusFile.model_validate(
                {"sha256": client.upload(path), "format": format_, "name": shown}
                | ({} if format_ == "text" else {"field": field})
            )
        )
    return client.register_corpus(name, tuple(entries))


@app.command("list")
def list_(server: ServerOption = DEFAULT_SERVER, json: JsonOption = False) -> None:
    """Every corpus, newest first.

    Example:

        fulcrum corpus list
    """
    from server.cli import show

    with connect(server) as client:
        views = client.corpora()
    if json:
        show.as_json(views)
    for view in () if json else views:
        typer.echo(_line(view))


def _line(view: "CorpusView") -> str:
    files = "1 file" if len(view.files) == 1 else f"{len(view.files)} files"
    size = f"{view.bytes / 1e6:.1f} MB" if view.bytes >= 1e5 else f"{view.bytes / 1e3:.2g} kB"
    return f"{view.id}  {view.name}: {files}, {size}"
