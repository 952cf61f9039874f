"""`fulcrum phone discover`: what can be reached from this host."""

from typing import Annotated

import typer


def discover(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Look for phones from this host: on USB, in a running adb server's list, and by its mDNS (wireless debugging).

    It asks no server, and changes nothing. What is found is served by `fulcrum agent --discover`, or by naming it:
    `fulcrum agent --phone SERIAL`.

    Examples:

        fulcrum phone discover

        fulcrum phone discover --json
    """
    from device_agent.adb.discover import discover as look
    from server.cli import show_phones

    found = look()
    show_phones.found_as_json(found) if json else show_phones.found_table(found)
