"""`fulcrum chat`: talk to a trained model through OpenAI's interface."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, HomeOption, ServerOption
from server.cli.trained import SOURCE_HELP, load

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `serve` a command of its own."""


@app.command()
def serve(
    source: Annotated[str, typer.Argument(metavar="CHECKPOINT_OR_RUN", help=SOURCE_HELP)],
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to bind; 0 takes a free one.")] = 8100,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; else the directory's or run's.")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="Positions that prompt and answer may have together.")] = 4096,
    cache_mb: Annotated[int, typer.Option(min=0, help="Budget of the prefix cache, 10^6 bytes; 0 for none.")] = 256,
    max_batch: Annotated[int, typer.Option(min=1, max=127, help="Answers that are written at once.")] = 16,
    queue: Annotated[int, typer.Option(min=0, max=4096, help="Answers that may wait; more are refused by 429.")] = 64,
    quantised: Annotated[bool, typer.Option("--quantised", help="Speak with the phone's 4-bit numerics.")] = False,
    home: HomeOption = DEFAULT_HOME,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Serve a trained model to OpenAI's clients: chats, completions, streaming; docs/generation.md says what of them.

    Bound to anything but loopback, a token must be set in FULCRUM_TOKEN, which clients send as their API key. Ctrl-C
    or SIGTERM ends what is being written and then the server.

    Examples:

        fulcrum chat serve 9a1b...

        fulcrum chat serve runs/9a1b/sealed/5fbd... --name winner --port 9000 --cache-mb 1000

        FULCRUM_TOKEN=$(openssl rand -hex 32) fulcrum chat serve 9a1b... --host 0.0.0.0

    Then, with any client of OpenAI's:

        curl http://127.0.0.1:8100/v1/chat/completions -H 'content-type: application/json' \\
            -d '{"model": "winner", "messages": [{"role": "user", "content": "Who are you?"}], "stream": true}'
    """
    from server.chat.app import create_chat_app
    from server.chat.desk import Desk, Served
    from server.serving import listen, until_signal
    from server.settings import Settings
    from trainer.generation import Engine

    settings = Settings(host=host, port=port)
    listener = listen(host, port)
    trained = load(source, home, server, quantised=quantised)
    engine = Engine(
        trained.model, tokenizer=trained.tokenizer, context=context, slots=max_batch, cache_bytes=cache_mb * 10**6
    )
    created = int(Path(trained.directory).stat().st_mtime)
    served = Served(name or trained.name, trained.tokenizer, trained.template, created)
    shown = f"[{host}]" if ":" in host else host
    with engine.serving():
        typer.echo(f"{served.name} talks on http://{shown}:{listener.getsockname()[1]}/v1")
        until_signal(create_chat_app(Desk(engine, served, queue), settings), listener)
