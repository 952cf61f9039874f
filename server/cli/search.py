"""`fulcrum search`: find the architecture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, connect

if TYPE_CHECKING:
    from search.spec import SearchSpec
    from server.api.views import SearchView

app = typer.Typer(no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The search's id, from `fulcrum search list`.")]


@app.command()
def submit(
    spec: Annotated[Path | None, typer.Argument(help="A SearchSpec as JSON; options override it.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Id of a corpus, from `fulcrum corpus list`.")] = None,
    phone: Annotated[
        list[str] | None, typer.Option(help="Serial of a registered phone, or group:NAME, or tag:NAME; repeatable.")
    ] = None,
    decode_ms: Annotated[float | None, typer.Option(help="Budget: milliseconds per decoded token.")] = None,
    ttft_ms: Annotated[float | None, typer.Option(help="Budget: milliseconds to the first token.")] = None,
    peak_memory_mb: Annotated[float | None, typer.Option(help="Budget: peak memory above the empty runner.")] = None,
    candidates: Annotated[int | None, typer.Option(help="How many architectures to try.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A tokenizer.json; without it one is trained on the corpus."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How to measure: quick, standard, publication, or a file with a Protocol.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    watch: Annotated[bool, typer.Option(help="Stay and show progress until it ends.")] = True,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Submit a search and watch it; Ctrl-C leaves it running.

    Examples:

        fulcrum search submit --corpus 3f2a... --phone 127.0.0.1:5599 --decode-ms 1.5 --peak-memory-mb 20

        fulcrum search submit spec.json --phone group:rack-a --candidates 64 --no-watch
    """
    budgets = {"decode_ms": decode_ms, "ttft_ms": ttft_ms, "peak_memory_mb": peak_memory_mb}
    from server.cli.bench import read_protocol

    given: dict[str, Any] = {"corpus": corpus, "phones": phone or None, "name": name}
    if protocol is not None:
        given["protocol"] = read_protocol(protocol).model_dump(mode="json")
    with connect(server) as client:
        if tokenizer is not None:
            given["tokenizer"] = client.upload(tokenizer)
        view = client.submit_search(_spec(spec, given, budgets, candidates))
        typer.echo(f"Search {view.id} is {view.state}: {server}/#search={view.id}")
        if watch:
            _watch(server, view.id)


def _spec(
    path: Path | None, given: dict[str, Any], budgets: dict[str, float | None], candidates: int | None
) -> "SearchSpec":
    import json

    from pydantic import ValidationError

    from device_agent.contracts import Blame, FulcrumError
    from search.spec import SearchSpec
    from server.cli.words import mistakes

    class BadSpec(FulcrumError):
        blame, slug = Blame.USER, "malformed-spec"

    try:
        body = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadSpec(f"{path} cannot be read: {error}", advice="Give a file that holds a JSON object.") from None
    if not isinstance(body, dict):
        raise BadSpec(
            f"{path} does not hold a JSON object.",
            advice="Its fields are those of SearchSpec in the server's /openapi.json.",
        )
    body |= {name: value for name, value in given.items() if value is not None}
    for part, options in (("budgets", budgets), ("effort", {"candidates": candidates})):
        said = {name: value for name, value in options.items() if value is not None}
        if said and isinstance(body.setdefault(part, {}), dict):
            body[part] |= said
    try:
        return SearchSpec.model_validate(body)
    except ValidationError as error:
        raise BadSpec(
            f"The search is malformed:\n{mistakes(error)}", advice="See `fulcrum search submit --help`."
        ) from None


def _watch(server: str, search: str) -> "SearchView":
    from server.cli import show
    from server.cli.watch import follow_search, on_leaving

    with connect(server) as client, on_leaving(f"The search goes on; see it again: fulcrum search watch {search}"):
        view = follow_search(client, search)
        views = client.candidates(search)
    show.candidates(views)
    show.measured(views)
    if view.verdict:
        show.verdict(view.verdict)
    if view.fault:
        show.fault("The search failed", view.fault)
        raise typer.Exit(1)
    return view


@app.command()
def watch(search: Id, server: ServerOption = DEFAULT_SERVER) -> None:
    """Show progress until the search ends, then its candidates and the verdict.

    Example:

        fulcrum search watch 5d0c...
    """
    _watch(server, search)


@app.command("list")
def list_(server: ServerOption = DEFAULT_SERVER, json: JsonOption = False) -> None:
    """Every search, newest first.

    Example:

        fulcrum search list --json
    """
    from server.cli import show

    with connect(server) as client:
        views = client.searches()
    show.as_json(views) if json else show.searches(views)


@app.command("show")
def show_(search: Id, server: ServerOption = DEFAULT_SERVER, json: JsonOption = False) -> None:
    """One search: its state, its candidates so far, and the verdict.

    Example:

        fulcrum search show 5d0c...
    """
    from server.cli import show

    with connect(server) as client:
        view, views = client.search(search), client.candidates(search)
    if json:
        show.as_json(view)
        return
    show.searches([view])
    show.candidates(views)
    show.measured(views)
    if view.verdict:
        show.verdict(view.verdict)


@app.command()
def candidates(search: Id, server: ServerOption = DEFAULT_SERVER, json: JsonOption = False) -> None:
    """A search's candidates, best quality first.

    Example:

        fulcrum search candidates 5d0c... --json > candidates.json
    """
    from server.cli import show

    with connect(server) as client:
        views = client.candidates(search)
    show.as_json(views) if json else show.candidates(views)


@app.command()
def cancel(search: Id, server: ServerOption = DEFAULT_SERVER) -> None:
    """Stop a search; what it measured stays.

    Example:

        fulcrum search cancel 5d0c...
    """
    with connect(server) as client:
        typer.echo(f"Search {search} is {client.cancel_search(search).state}.")


@app.command()
def resume(search: Id, server: ServerOption = DEFAULT_SERVER) -> None:
    """Go on with a search that failed or was cancelled, from its last candidate.

    Example:

        fulcrum search resume 5d0c...
    """
    with connect(server) as client:
        typer.echo(f"Search {search} is {client.resume_search(search).state}.")
