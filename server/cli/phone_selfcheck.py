"""`fulcrum phone test`: the self-check that a phone must pass before its figures count."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.api.views import SelfCheckView
    from server.client import Client

_POLL_SECONDS = 0.5


def self_check(
    serial: Annotated[str, typer.Argument(help="The phone's serial, as its agent names it.")],
    server: ServerOption = DEFAULT_SERVER,
    json: JsonOption = False,
) -> None:
    """Check a phone from end to end: push, hash, load, logits equal to eager PyTorch's, timing, memory.

    It runs as a job of the queue, after what is queued for the phone already. The server exports the tiny Program
    once, which takes a minute or more. Exit code 1 when the phone did not pass; Ctrl-C leaves the check running.

    Example:

        fulcrum phone test 127.0.0.1:5599
    """
    from server.cli import show

    with connect(server) as client:
        check = follow_check(client, serial, quiet=json)
    show.as_json(check) if json else show.self_check(check)
    if not check.passed:
        raise typer.Exit(1)


def follow_check(
    client: "Client", serial: str, tick: "Callable[[], None]" = lambda: None, *, quiet: bool = False
) -> "SelfCheckView":
    """Ask for a phone's self-check and say what it waits for; `tick` is called between looks. The finished check."""
    from server.cli import show

    check, said = client.test_phone(serial), ""
    while not check.finished:
        if (now := _doing(check)) != said and not quiet:
            show.console.print(now)
        said = now
        tick()
        time.sleep(_POLL_SECONDS)
        check = client.phone_test(serial, check.id)
    return check


def _doing(check: "SelfCheckView") -> str:
    match check.state:
        case "preparing":
            return "The server exports the golden Program; once, then it keeps it."
        case "queued":
            return f"Waiting: {check.waiting}" if check.waiting else "Queued."
        case _:
            return "Running on the phone."
