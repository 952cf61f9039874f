"""The command line's root: mounts the groups and turns errors into words."""

import sys
from importlib import import_module

import typer

from server.cli.words import in_words

_GROUPS = {
    "phone": "Register, list and remove phones; start a virtual one.",
    "corpus": "Register the text that candidates are scored and winners are trained on.",
    "data": "Fetch real text, prepare it for training, and look at what was prepared.",
    "synthesise": "Let a larger model make conversations to train on, by a recipe.",
    "search": "Submit searches, watch them, and read their candidates.",
    "run": "Train a winner and hear it talk on the phone.",
    "model": "Export what was trained to other runtimes; account for every byte of it.",
    "chat": "Serve a trained model to OpenAI's clients.",
    "bench": "Measure and compare candidates by hand, on a phone of this host.",
    "runner": "Build, install and check the program that phones run.",
    "db": "Bring the database up to date.",
}
_COMMANDS = {
    "server": "server",
    "agent": "agent",
    "demo": "demo",
    "teach": "teach",
    "train": "train",
    "quantise": "quantise",
    "merge": "merge",
    "curate": "curate",
    "generate": "generate",
    "evaluate": "evaluate",
}


def application() -> typer.Typer:
    """The whole command, assembled; importing a group's module imports nothing heavy."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        help="Fulcrum: which language model should I build for this phone, and how do I get it?",
        epilog="Start with: fulcrum demo",
    )
    for name, help_text in _GROUPS.items():
        app.add_typer(import_module(f"server.cli.{name}").app, name=name, help=help_text)
    for name, module in _COMMANDS.items():
        app.command(name)(getattr(import_module(f"server.cli.{module}"), name))
    return app


def main() -> None:
    """Run the command; an error ends it with words, never with a traceback."""
    try:
        application()()
    except Exception as error:
        _say(*in_words(error))
        sys.exit(1)


def _say(message: str, advice: str) -> None:
    typer.secho(f"Error: {message}", fg=typer.colors.RED, err=True)
    if advice:
        typer.echo(advice, err=True)
