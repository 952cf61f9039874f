"""`fulcrum agent`: the bench host's loop."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, ServerOption


def agent(
    phone: Annotated[list[str], typer.Option("--phone", help="host:port of a phone's ADB daemon; repeatable.")],
    server: ServerOption = DEFAULT_SERVER,
    name: Annotated[str, typer.Option("--name", help="The agent's name in the fleet; the host's name if empty.")] = "",
    home: Annotated[
        Path, typer.Option("--home", envvar="FULCRUM_AGENT_HOME", help="Where its key, outbox and artifacts lie.")
    ] = DEFAULT_HOME / "agent",
    runner: Annotated[
        Path | None,
        typer.Option(
            "--runner",
            help="A runner's bundle, or a directory of them; those that were installed serve too. "
            f"{DEFAULT_HOME / 'runner'} if it is there.",
        ),
    ] = None,
) -> None:
    """Serve the phones of this host: lease work, run it on them, report what came back. Ctrl-C ends it cleanly.

    A phone on TCP is opened by `adb tcpip 5555` over its cable; accept this host's key on its screen. The server's
    token, if it asks for one, is taken from the variable FULCRUM_TOKEN.

    Examples:

        fulcrum agent --phone 127.0.0.1:5599

        fulcrum agent --phone 192.168.1.20:5555 --runner runners/android-native

        FULCRUM_TOKEN=... fulcrum agent --server https://fulcrum.example --phone 192.168.1.20:5555 --name bench-1
    """
    import logging
    import os
    import platform
    import re
    import signal
    import threading

    from rich.logging import RichHandler

    from device_agent.agent import Agent, AgentSettings

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    settings = AgentSettings(
        server=server,
        phones=phone,
        name=name or re.sub(r"[^A-Za-z0-9._\-]", "-", platform.node())[:64] or "agent",
        home=home,
        runner=runner or (DEFAULT_HOME / "runner" if (DEFAULT_HOME / "runner").exists() else None),
        token=os.environ.get("FULCRUM_TOKEN"),
    )
    working = Agent(settings)
    for number in (signal.SIGINT, signal.SIGTERM):  # in a thread: the handler may interrupt a holder of its lock
        signal.signal(number, lambda *_: threading.Thread(target=working.stop).start())
    working.run()
