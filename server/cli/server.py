"""`fulcrum server`: the API, the page, and the worker beside them."""

from typing import Annotated

import typer

from server.cli.options import DEFAULT_HOME, HomeOption


def server(
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[str, typer.Option(envvar="FULCRUM_HOST", help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="FULCRUM_PORT", help="Port to bind.")] = 8000,
    database_url: Annotated[
        str, typer.Option(envvar="FULCRUM_DATABASE_URL", help="postgresql://...; SQLite in the home without it.")
    ] = "",
    worker: Annotated[bool, typer.Option(help="Run searches and training beside the API.")] = True,
) -> None:
    """Serve REST and the page, and run searches and training in a worker process beside.

    The database is brought up to date first. Bound to anything but loopback, a token must be set in FULCRUM_TOKEN.
    With FULCRUM_OPTUNA_STORAGE set to an Optuna storage's URL, the trials of every search are copied there as well, so
    that optuna-dashboard shows them.

    Examples:

        fulcrum server

        fulcrum server --database-url postgresql://fulcrum@localhost/fulcrum

        FULCRUM_OPTUNA_STORAGE=sqlite:///trials.db fulcrum server

        FULCRUM_TOKEN=$(openssl rand -hex 32) fulcrum server --host 0.0.0.0
    """
    from contextlib import nullcontext

    from server.migrate import upgrade
    from server.serving import listen, serve
    from server.settings import Settings
    from server.supervise import worker_beside

    settings = Settings(home=home, host=host, port=port, database_url=database_url)
    listener = listen(host, port)
    upgrade(settings.url)
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"Fulcrum serves on http://{shown}:{listener.getsockname()[1]}")
    with worker_beside(settings) if worker else nullcontext():
        serve(settings, listener)
