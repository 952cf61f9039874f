"""`fulcrum agent`: the bench host's loop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, ServerOption

if TYPE_CHECKING:
    from device_agent.agent import AgentSettings


def agent(
    phone: Annotated[
        list[str] | None,
        typer.Option("--phone", help="host:port of a phone's ADB daemon, or a serial on USB; repeatable."),
    ] = None,
    discover: Annotated[
        bool, typer.Option("--discover", help="Serve every phone within reach, and those that come later.")
    ] = False,
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
    min_battery: Annotated[int, typer.Option(min=0, max=100, help="Percent below which a phone rests.")] = 30,
    resume_battery: Annotated[int, typer.Option(min=0, max=100, help="Percent from which it works again.")] = 40,
    max_battery: Annotated[
        int, typer.Option(min=0, max=100, help="Percent above which a charging phone is reported; it works on.")
    ] = 80,
    max_celsius: Annotated[float, typer.Option(min=0, max=100, help="Battery heat above which a phone rests.")] = 45.0,
    check_jobs: Annotated[int, typer.Option(min=1, help="Jobs between two health checks of a phone.")] = 100,
    check_hours: Annotated[float, typer.Option(min=0.01, help="Hours between two health checks of a phone.")] = 24.0,
    min_free_mb: Annotated[int, typer.Option(min=0, help="Free space that a phone's health check asks for.")] = 512,
) -> None:
    """Serve the phones of this host: lease work, run it on them, report what came back. Ctrl-C ends it cleanly.

    A phone on TCP is opened by `adb tcpip 5555` over its cable; accept this host's key on its screen. The server's
    token, if it asks for one, is taken from the variable FULCRUM_TOKEN.

    Each phone has a process of its own, which is started again when it dies. A phone whose battery is low or hot rests
    and comes back by itself; to stop it from charging too far is not possible without root: set that on the phone
    (Samsung: Battery protection).

    Examples:

        fulcrum agent --phone 127.0.0.1:5599

        fulcrum agent --phone 192.168.1.20:5555 --runner runners/android-native

        fulcrum agent --discover --min-battery 20 --check-hours 6

        FULCRUM_TOKEN=... fulcrum agent --server https://fulcrum.example --phone 192.168.1.20:5555 --name bench-1
    """
    import os
    import platform
    import re

    from device_agent.adb.discover import discover as look
    from device_agent.agent import AgentSettings
    from device_agent.contracts import Blame, FulcrumError
    from device_agent.vitals import BatteryPolicy

    class NoPhones(FulcrumError):
        blame, slug = Blame.USER, "no-phones"

    if not phone and not discover:
        raise NoPhones(
            "This agent has no phones.",
            advice="Name one (--phone 192.168.1.20:5555), or let it look for them (--discover). "
            "`fulcrum phone discover` shows what is within reach.",
        )
    _run(
        AgentSettings(
            server=server,
            phones=phone or (),
            name=name or re.sub(r"[^A-Za-z0-9._\-]", "-", platform.node())[:64] or "agent",
            home=home,
            runner=runner or (DEFAULT_HOME / "runner" if (DEFAULT_HOME / "runner").exists() else None),
            token=os.environ.get("FULCRUM_TOKEN"),
            check_jobs=check_jobs,
            check_seconds=check_hours * 3600,
            min_free_bytes=min_free_mb << 20,
            battery=BatteryPolicy(min_battery, resume_battery, max_celsius, max_battery),
            discover=look if discover else None,
        )
    )


def _run(settings: "AgentSettings") -> None:
    import logging
    import signal
    import threading

    from rich.logging import RichHandler

    from device_agent.agent import Agent

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    working = Agent(settings)
    for number in (signal.SIGINT, signal.SIGTERM):  # in a thread: the handler may interrupt a holder of its lock
        signal.signal(number, lambda *_: threading.Thread(target=working.stop).start())
    working.run()
