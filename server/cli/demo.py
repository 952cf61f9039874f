"""`fulcrum demo`: the main job from a budget to a model that talks, by the same REST and commands that a user has."""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from device_agent.contracts import Blame, FulcrumError
from server.cli.options import DEFAULT_HOME, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.spec import Budgets, SearchSpec
    from server.api.views import RunView, SearchView
    from server.cli.household import Household
    from server.client import Client
    from server.runs import RunSpec

    SpecT = TypeVar("SpecT", SearchSpec, RunSpec)
    ViewT = TypeVar("ViewT", SearchView, RunView)


class Unwon(FulcrumError):
    """The search ended without a winner."""

    blame, slug = Blame.USER, "no-winner"


def demo(
    home: Annotated[Path, typer.Option("--home", help="The demo's own data directory.")] = DEFAULT_HOME / "demo",
    exit_: Annotated[bool, typer.Option("--exit", help="End when done, instead of leaving the page open.")] = False,
    summary: Annotated[Path | None, typer.Option("--summary", help="Write the summary as JSON here.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier demo; otherwise it is carried on.")] = False,
    candidates: Annotated[int, typer.Option(min=1, help="Architectures to try.")] = 16,
    decode_ms: Annotated[float, typer.Option(help="Budget: milliseconds per decoded token.")] = 1.0,
    ttft_ms: Annotated[float, typer.Option(help="Budget: milliseconds to the first token.")] = 100.0,
    peak_memory_mb: Annotated[float, typer.Option(help="Budget: peak memory, 10^6 bytes.")] = 10.0,
    tokens: Annotated[
        float,
        typer.Option(min=0.001, max=1000, help="Multiplies what trainings read; after pretraining at least half."),
    ] = 0.6,
) -> None:
    """Run the main job on embedded defaults: SQLite, and a virtual Galaxy S24 on this host.

    Starts a server, a virtual phone and an agent; registers the phone; searches; takes the winner through every lever;
    measures it on the phone and has it continue a prompt there. Ctrl-C anywhere, and the same command carries on.

    Examples:

        fulcrum demo

        fulcrum demo --exit --summary out.json
    """
    from search.spec import Budgets
    from server.cli import show
    from server.cli.household import Household
    from server.cli.summary import show_summary, summarise

    if summary:
        _writable(summary)
    budgets = Budgets(decode_ms=decode_ms, ttft_ms=ttft_ms, peak_memory_mb=peak_memory_mb)
    try:
        with Household(home, fresh) as household, _announced():
            url, serial = _start(household, home)
            with connect(url) as client:
                _register(household, client, serial)
                spec = _spec(client, serial, budgets, candidates, tokens)
                search = _search(household, client, url, spec)
                run = _train(household, client, search, tokens)
                report = summarise(client, search, run, serial)
            show.console.rule("Summary")
            show_summary(report)
            if summary:
                summary.write_text(json.dumps(report, indent=2))
                show.console.print(f"Written to {summary}.")
            if not exit_:
                show.console.print(f"The page stays open at [bold]{url}[/]. Ctrl-C ends it.")
                household.wait_until("The end", lambda: False, math.inf)
    except KeyboardInterrupt:
        show.console.print("Stopped. The same command carries on from here.")
        raise typer.Exit(130) from None


@contextmanager
def _announced() -> Iterator[None]:
    """What runs gets seconds to save where it is; nobody should wonder why."""
    from server.cli import show

    try:
        yield
    except KeyboardInterrupt:
        show.console.print("Stopping...")
        raise


def _writable(file: Path) -> None:
    """Find out now, not after the main job."""
    directory = file.absolute().parent
    directory.mkdir(parents=True, exist_ok=True)
    if file.is_dir() or not os.access(directory, os.W_OK):
        raise PermissionError(errno.EACCES, "cannot be written to", str(file))


def _start(household: "Household", home: Path) -> tuple[str, str]:
    """Start server, phone and agent; returns the server's address and the phone's serial."""
    from device_agent.runner.build import build
    from server.cli import show

    runner = build(home / "runner")
    show.console.print(f"Runner: {runner.label}")
    port, phone_port = household.port("server", 8000), household.port("phone", 5599)
    url, serial = f"http://127.0.0.1:{port}", f"127.0.0.1:{phone_port}"
    household.start("server", "server", "--home", str(home), "--port", str(port))
    household.start(
        "phone", "phone", "virtual", "--root", str(home / "phone"), "--port", str(phone_port), "--accept-first-key"
    )
    with connect(url) as client:
        household.wait_until("The server's start", client.ready, 60)
    agent = ("agent", "--server", url, "--phone", serial, "--home", str(home / "agent"))
    household.start("agent", *agent, "--runner", str(home / "runner"))
    show.console.print(f"Server and page: [bold]{url}[/]")
    return url, serial


def _register(household: "Household", client: "Client", serial: str) -> None:
    from device_agent.contracts import PhoneState
    from server.cli import show_phones
    from server.clock import utc_now

    begun = utc_now()
    client.register_phone(serial, "Virtual Galaxy S24")

    def proved() -> bool:
        """Ready, and said so now: what an earlier demo's agent said is still in the tables."""
        phone = client.phone(serial)
        return phone.state is PhoneState.READY and phone.last_seen is not None and phone.last_seen > begun

    household.wait_until("The phone's proof by a round trip", proved, 60)
    _check(household, client, serial)
    show_phones.table([client.phone(serial)])


def _check(household: "Household", client: "Client", serial: str) -> None:
    """A phone's figures count once it has passed its self-check. One that fails goes on, flagged wherever it stands."""
    from server.cli import show
    from server.cli.phone_selfcheck import follow_check

    known = client.phone(serial).self_check
    if known is None or not known.passed:
        show.self_check(follow_check(client, serial, household.check))


def _spec(client: "Client", serial: str, budgets: "Budgets", candidates: int, tokens: float) -> "SearchSpec":
    from search.spec import Effort, SearchSpec
    from server.cli.corpus import add_standard_library

    corpus = add_standard_library(client, "Python standard library")
    effort = Effort(candidates=candidates)
    return SearchSpec(
        name="demo",
        corpus=corpus.id,
        phones=(serial,),
        budgets=budgets,
        effort=effort.model_copy(update={"proxy_tokens": max(1_000, round(effort.proxy_tokens * tokens))}),
    )


def anew_if_in_vain(submit: "Callable[[SpecT, str], ViewT]", spec: "SpecT") -> "ViewT":
    """The work of an earlier demo; where that failed, was cancelled or has no winner, the same again."""
    from device_agent.contracts import content_hash
    from server.api.views import SearchView
    from server.runs import WorkState

    for attempt in count():
        view = submit(spec, f"demo-{content_hash(spec)[:32]}-{attempt}")
        in_vain = view.state is WorkState.SUCCEEDED and isinstance(view, SearchView) and not _won(view)
        if view.state not in (WorkState.FAILED, WorkState.CANCELLED) and not in_vain:
            break
    return view


def _won(search: "SearchView") -> bool:
    return search.verdict is not None and search.verdict.winner is not None


def _search(household: "Household", client: "Client", url: str, spec: "SearchSpec") -> "SearchView":
    from server.cli import show
    from server.cli.watch import follow_search

    show.console.rule("Search")
    submitted = anew_if_in_vain(client.submit_search, spec)
    show.console.print(f"{url}/#search={submitted.id}")
    view = follow_search(client, submitted.id, household.check)
    show.candidates(client.candidates(view.id))
    if view.fault:
        show.fault("The search failed", view.fault)
    if view.verdict:
        show.verdict(view.verdict)
    if not _won(view):
        raise Unwon(
            "Without a winner there is nothing to train.",
            advice="The same command searches anew: a busy host is a slow phone. Other budgets: fulcrum demo --help.",
        )
    return view


def _train(household: "Household", client: "Client", search: "SearchView", tokens: float) -> "RunView":
    from server.cli import show
    from server.cli.levers import stages_of_all_levers
    from server.cli.watch import follow_run
    from server.runs import RunSpec

    show.console.rule("Training the winner")
    spec = RunSpec(search=search.id, name="demo", stages=stages_of_all_levers(client, tokens))
    view = follow_run(client, anew_if_in_vain(client.submit_run, spec).id, household.check)
    if view.fault:
        show.run(view)
        show.fault("The run failed", view.fault)
        raise typer.Exit(1)
    return view
