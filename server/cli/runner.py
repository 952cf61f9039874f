"""`fulcrum runner`: the program that phones run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from server.cli.options import DEFAULT_HOME

if TYPE_CHECKING:
    from device_agent.runner.bundle import RunnerBundle

app = typer.Typer(no_args_is_help=True)

Value = TypeVar("Value")
AgentHome = Annotated[
    Path, typer.Option("--home", envvar="FULCRUM_AGENT_HOME", help="The agent's home, where its runners lie.")
]
DEFAULT_AGENT_HOME = DEFAULT_HOME / "agent"


@app.command()
def build(
    directory: Annotated[
        Path | None, typer.Option("--dir", help=f"Where the bundle goes; {DEFAULT_HOME}/runner for the host's.")
    ] = None,
    provider: Annotated[str, typer.Option(help="host, android-native or android-java.")] = "host",
    executorch: Annotated[
        str | None, typer.Option(help="android-*: the ExecuTorch release that the libraries are of, such as 1.4.1.")
    ] = None,
    ndk: Annotated[Path | None, typer.Option(help="android-native: the NDK; else ANDROID_NDK.")] = None,
    executorch_install: Annotated[
        Path | None, typer.Option(help="android-native: ExecuTorch's install tree for arm64; else EXECUTORCH_INSTALL.")
    ] = None,
    aar: Annotated[
        list[Path] | None, typer.Option(help="android-java: executorch-android's and fbjni's .aar; repeatable.")
    ] = None,
    dexer: Annotated[Path | None, typer.Option(help="android-java: d8 of Android's build-tools, or a dx.jar.")] = None,
    android_jar: Annotated[Path | None, typer.Option(help="android-java: android.jar of an Android platform.")] = None,
) -> None:
    """Build a runner and write its bundle.

    `host` is what virtual phones run, against the installed ExecuTorch. A phone of glass and metal needs one of the
    others: the native runner, built with the NDK against an ExecuTorch built for arm64, or the Java runner around
    ExecuTorch's Android archive. docs/real-phone.md takes you through both.

    Examples:

        fulcrum runner build

        fulcrum runner build --provider android-native --executorch 1.4.1 --executorch-install ~/executorch-android

        fulcrum runner build --provider android-java --aar executorch-android-1.4.1.aar --aar fbjni-0.7.0.aar \\
            --dexer $ANDROID_HOME/build-tools/35.0.0/d8 --android-jar $ANDROID_HOME/platforms/android-35/android.jar
    """
    place = directory or DEFAULT_HOME / ("runner" if provider == "host" else f"runner-{provider}")
    match provider:
        case "host":
            from device_agent.runner.build import build as build_host

            bundle = build_host(place)
        case "android-native":
            from device_agent.runner.android_native import build_android_native

            bundle = build_android_native(
                place, _required(executorch, "--executorch"), ndk=ndk, executorch=executorch_install
            )
        case "android-java":
            archives = _required(aar, "--aar")
            tools = (_required(dexer, "--dexer"), _required(android_jar, "--android-jar"))
            bundle = _build_java(place, archives, *tools, executorch)
        case _:
            raise typer.BadParameter("there are host, android-native and android-java", param_hint="--provider")
    typer.echo(f"{bundle.label} for {bundle.manifest.abi} in {place}")


def _required(value: Value | None, option: str) -> Value:
    if value is None:
        raise typer.BadParameter("this provider needs it; see --help", param_hint=option)
    return value


def _build_java(
    place: Path, archives: list[Path], dexer: Path, android: Path, executorch: str | None
) -> "RunnerBundle":
    import tempfile

    from device_agent.runner.android_java import build_java, parts_from_archives

    with tempfile.TemporaryDirectory(prefix="fulcrum-aar-") as scratch:
        parts = parts_from_archives(archives, Path(scratch), dexer=dexer, android=android, executorch=executorch)
        return build_java(parts, place)


@app.command()
def install(
    source: Annotated[Path, typer.Argument(help="A bundle's directory, .zip or .tar.gz.")],
    home: AgentHome = DEFAULT_AGENT_HOME,
) -> None:
    """Bring a bundle into the agent's home, verified by hash; the agent picks it for phones of its ABI.

    Example:

        fulcrum runner install android-native.tar.gz
    """
    from device_agent.runner.install import install as install_bundle

    bundle = install_bundle(source, home)
    typer.echo(f"{bundle.label} for {bundle.manifest.abi} in {bundle.directory}")


@app.command()
def check(
    source: Annotated[Path | None, typer.Argument(help="A bundle; without it, every one the agent would use.")] = None,
    phone: Annotated[str | None, typer.Option(help="Runs the golden Program on it; named as for an agent.")] = None,
    home: AgentHome = DEFAULT_AGENT_HOME,
) -> None:
    """Open a bundle, verify its hashes, and run a tiny golden Program where that is possible; says what was not.

    A host's runner runs on a virtual phone made for the moment; an Android one needs --phone, reached with the
    agent's key. Exporting the golden Program takes a minute or more. Exit code 1 when anything that ran failed.

    Examples:

        fulcrum runner check

        fulcrum runner check runner-android-native --phone 192.168.1.20:5555
    """
    from server.cli.runner_check import check_runners

    default = DEFAULT_HOME / "runner"
    named = source or (default if default.exists() else None)
    if not check_runners(named, home, phone):
        raise typer.Exit(1)
