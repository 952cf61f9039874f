"""`fulcrum bench`: measure a search's candidates by hand, on a phone of this host, without the queue."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, ServerOption

if TYPE_CHECKING:
    from device_agent.bench import Bench
    from device_agent.contracts import MeasureJob, Protocol, Sha256

app = typer.Typer(no_args_is_help=True)

Search = Annotated[str, typer.Argument(help="The search's id, from `fulcrum search list`.")]
PhoneOption = Annotated[str, typer.Option("--phone", help="host:port of the phone's ADB daemon.")]
RunnerOption = Annotated[Path, typer.Option("--runner", help="The bundle of the program that phones run.")]
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="FULCRUM_AGENT_HOME", help="Where the key and the artifacts lie.")
]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", help="quick, standard, publication, or a file that holds a Protocol as JSON.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write everything as JSON here, raw samples and all.")]


@app.command()
def measure(
    search: Search,
    candidate: Annotated[int, typer.Argument(help="The candidate's number.")],
    phone: PhoneOption,
    protocol: ProtocolOption = "standard",
    runner: RunnerOption = DEFAULT_HOME / "runner",
    home: HomeOption = DEFAULT_HOME / "agent",
    out: OutOption = None,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Measure one candidate. Stop the phone's agent first: two on one phone disturb each other.

    Example:

        fulcrum bench measure 5d0c... 3 --phone 127.0.0.1:5599 --protocol publication --out measured.json
    """
    from device_agent.contracts import Measurement, Profile
    from server.cli import show

    chosen = read_protocol(protocol)
    with _at(phone, runner, home) as bench:
        (job,), files = _jobs(server, home, search, (candidate,), chosen)
        result = bench.run(job, files)
    assert isinstance(result, Measurement)
    _write(out, result.model_dump_json(indent=2))
    show.profile(Profile.of(result), result)


@app.command()
def compare(
    search: Search,
    first: Annotated[int, typer.Argument(help="A candidate's number.")],
    second: Annotated[int, typer.Argument(help="Another's.")],
    phone: PhoneOption,
    protocol: ProtocolOption = "standard",
    runner: RunnerOption = DEFAULT_HOME / "runner",
    home: HomeOption = DEFAULT_HOME / "agent",
    out: OutOption = None,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Compare two candidates by interleaved blocks (ABBA), and say whether a difference may be claimed.

    Example:

        fulcrum bench compare 5d0c... 3 7 --phone 127.0.0.1:5599
    """
    from server.cli import show

    chosen = read_protocol(protocol)
    with _at(phone, runner, home) as bench:
        (one, other), files = _jobs(server, home, search, (first, second), chosen)
        found = bench.compare(one, other, files)
    _write(out, found.model_dump_json(indent=2))
    show.comparison(found)


def read_protocol(text: str) -> "Protocol":
    """A preset's name, or a file that holds a Protocol.

    Raises:
        BadProtocol: neither.
    """
    import json

    from pydantic import ValidationError

    from device_agent.contracts import Blame, FulcrumError, Protocol
    from server.cli.words import mistakes

    class BadProtocol(FulcrumError):
        blame, slug = Blame.USER, "malformed-protocol"

    advice = 'Give quick, standard, publication, or a file such as {"preset": "quick", "blocks": 5}.'
    try:
        body = json.loads(Path(text).read_text()) if Path(text).is_file() else {"preset": text}
        return Protocol.model_validate(body)
    except (OSError, ValueError, RecursionError) as error:
        why = f"\n{mistakes(error)}" if isinstance(error, ValidationError) else f" {error}"
        raise BadProtocol(f"The protocol {text} is malformed:{why}", advice=advice) from None


@contextmanager
def _at(phone: str, runner: Path, home: Path) -> "Iterator[Bench]":
    from device_agent.adb import Link, ensure_key
    from device_agent.bench import Bench
    from device_agent.runner.bundle import RunnerBundle

    bundle = RunnerBundle(runner)
    home.mkdir(parents=True, exist_ok=True)
    with Link.connect(phone, ensure_key(home / "adbkey"), 30.0) as link:
        yield Bench(link, bundle, serial=phone)


def _jobs(
    server: str, home: Path, search: str, numbers: tuple[int, ...], protocol: "Protocol"
) -> "tuple[list[MeasureJob], dict[Sha256, Path]]":
    """Jobs of candidates, and where the files of their Programs lie here now."""
    import os

    from device_agent.agent.cache import ArtifactCache
    from device_agent.agent.client import ServerClient
    from device_agent.contracts import Blame, FulcrumError, MeasureJob, Program
    from server.cli.options import connect

    class NotExported(FulcrumError):
        blame, slug = Blame.USER, "not-exported"

    with connect(server) as client:
        known = {view.number: view for view in client.candidates(search)}
    downloads = ServerClient(server, os.environ.get("FULCRUM_TOKEN"))
    cache = ArtifactCache(home / "artifacts", downloads)
    jobs: list[MeasureJob] = []
    files: dict[Sha256, Path] = {}
    for number in numbers:
        name = known[number].program if number in known else None
        if name is None:
            raise NotExported(
                f"The search has no exported candidate {number}.", advice="See `fulcrum search candidates`."
            )
        manifest = home / f"{name}.json"
        downloads.download(name, manifest)
        program = Program.model_validate_json(manifest.read_bytes())
        manifest.unlink()
        jobs.append(MeasureJob(program=program, protocol=protocol))
        files |= cache.files_of(program)
    return jobs, files


def _write(out: Path | None, text: str) -> None:
    if out is not None:
        out.write_text(text)
        typer.echo(f"Written to {out}.")
