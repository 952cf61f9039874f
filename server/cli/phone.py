"""`fulcrum phone`: the fleet."""

from typing import TYPE_CHECKING, Annotated

import typer

from device_agent.contracts import PhoneState
from server.cli.options import DEFAULT_SERVER, JsonOption, ServerOption, connect
from server.cli.phone_discover import discover
from server.cli.phone_selfcheck import self_check
from server.cli.phone_virtual import virtual

if TYPE_CHECKING:
    from server.api.views import PhoneView

_EPILOG = "\n\n".join(
    (
        "A phone works once an agent reaches it and it is registered; the list says what keeps it. Examples:",
        "fulcrum phone discover",
        "fulcrum agent --phone 192.168.1.20:5555",
        "fulcrum phone add 192.168.1.20:5555 --group rack-a --tag s24",
        "fulcrum phone list --group rack-a --state ready",
    )
)

app = typer.Typer(no_args_is_help=True, epilog=_EPILOG)
app.command()(virtual)
app.command()(discover)
app.command("test")(self_check)

Serial = Annotated[str, typer.Argument(help="The phone's serial, as its agent names it: host:port on TCP.")]


@app.command()
def add(
    serial: Serial,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    group: Annotated[str | None, typer.Option(help="The one group that it is in, such as its rack.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    note: Annotated[str | None, typer.Option(help="Anything to remember of it.")] = None,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Register a phone. It is ready once its agent has proved it by a round trip.

    Examples:

        fulcrum phone add 127.0.0.1:5599 --name "Virtual S24"

        fulcrum phone add R5CX10ABCDE --group rack-a --tag s24 --tag exynos
    """
    from server.cli import show_phones

    with connect(server) as client:
        show_phones.table([client.register_phone(serial, name, tuple(tag or ()), group=group, note=note)])


@app.command()
def edit(
    serial: Serial,
    name: Annotated[str | None, typer.Option(help='What people call it; "" takes the name away.')] = None,
    group: Annotated[str | None, typer.Option(help='The group that it is in; "" takes it out.')] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag to give it; repeatable.")] = None,
    untag: Annotated[list[str] | None, typer.Option("--untag", help="A tag to take away; repeatable.")] = None,
    note: Annotated[str | None, typer.Option(help='Anything to remember of it; "" takes it away.')] = None,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Name, group, tag or annotate a phone; what is not given stays as it is.

    Examples:

        fulcrum phone edit 127.0.0.1:5599 --group rack-a --tag s24 --untag new

        fulcrum phone edit 127.0.0.1:5599 --note "screen cracked, runs well" --name ""
    """
    from server.api.views import PhoneChange
    from server.cli import show_phones

    given = {"name": name, "group": group, "note": note}
    change = PhoneChange(
        **{field: value or None for field, value in given.items() if value is not None},
        add_tags=tuple(tag or ()),
        remove_tags=tuple(untag or ()),
    )
    with connect(server) as client:
        show_phones.table([client.change_phone(serial, change)])


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option(help="A part of maker and model, such as S921.")] = None,
    soc: Annotated[str | None, typer.Option(help="A part of the SoC's name, such as SM8650.")] = None,
    android: Annotated[str | None, typer.Option(help="Android's version, or its first numbers, such as 14.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Those that have it; repeated, those that have all.")] = None,
    group: Annotated[str | None, typer.Option(help="Those in this group.")] = None,
    state: Annotated[PhoneState | None, typer.Option(help="Those in this state.")] = None,
    long: Annotated[
        bool, typer.Option("--long", help="Everything that is known of each, one below the other.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    json: JsonOption = False,
) -> None:
    """Every phone, registered or only seen by an agent; or those that fit all that is given.

    Examples:

        fulcrum phone list --json

        fulcrum phone list --soc s5e9945 --android 14 --state ready

        fulcrum phone list --group rack-a --long
    """
    from server.cli import show, show_phones

    with connect(server) as client:
        views = client.phones(model=model, soc=soc, android=android, tags=tuple(tag or ()), group=group, state=state)
    if json:
        show.as_json(views)
    elif long:
        show_phones.details(views)
    else:
        show_phones.table(views)


@app.command("show")
def show_(serial: Serial, server: ServerOption = DEFAULT_SERVER) -> None:
    """All that is known of one phone, as JSON.

    Example:

        fulcrum phone show 127.0.0.1:5599
    """
    from server.cli import show

    with connect(server) as client:
        show.as_json(client.phone(serial))


@app.command()
def remove(serial: Serial, server: ServerOption = DEFAULT_SERVER) -> None:
    """Take a phone out of the fleet; what it measured stays.

    Example:

        fulcrum phone remove 127.0.0.1:5599
    """
    with connect(server) as client:
        client.remove_phone(serial)
    typer.echo(f"{serial} is no longer in the fleet.")


@app.command()
def maintain(
    serial: Serial,
    reason: Annotated[str, typer.Option(help="For those who wonder why it does not work.")] = "",
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Take a phone out of work by hand: what it runs now is finished, then it gets nothing until it is released.

    Example:

        fulcrum phone maintain 127.0.0.1:5599 --reason "new battery"
    """
    from server.cli import show_phones

    with connect(server) as client:
        show_phones.table([client.maintain_phone(serial, reason)])


@app.command()
def release(serial: Serial, server: ServerOption = DEFAULT_SERVER) -> None:
    """Give a phone back to work: end its quarantine, or its maintenance.

    Example:

        fulcrum phone release 127.0.0.1:5599
    """
    from server.cli import show_phones

    with connect(server) as client:
        show_phones.table([client.release_phone(serial)])


@app.command()
def check(
    serial: Serial,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the result; 0 only asks.")] = 120.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Have a phone's health checked as soon as no job runs on it: storage, free space, battery.

    A phone that fails is quarantined; one that passes comes out of quarantine. Agents do this by themselves when they
    first prove a phone, then every so many jobs or hours (see fulcrum agent --help).

    Example:

        fulcrum phone check 127.0.0.1:5599
    """
    from server.cli import show_phones

    with connect(server) as client:
        before = client.check_phone(serial)
        view = show_phones.wait_for_check(client, before, wait) if wait else before
    show_phones.details([view])
    if wait:
        _require_check(before, view, wait)


def _require_check(before: "PhoneView", view: "PhoneView", wait: float) -> None:
    """Fail the command when the check failed, or was not done."""
    if view.health is None or view.health == before.health:
        why = f"{view.fault.message} {view.fault.advice}" if view.fault else "Its job may take longer."
        typer.secho(f"No check within {wait:.0f} s: {view.serial} is {view.state}. {why}", fg="red", err=True)
        raise typer.Exit(1)
    if not view.health.passed:
        raise typer.Exit(1)
