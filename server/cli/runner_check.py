"""What `fulcrum runner check` does: hashes, then the golden Program on a phone that the runner is for."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_agent.adb import Link, ensure_key
from device_agent.bench import Bench
from device_agent.contracts import CheckJob, SelfCheck
from device_agent.runner.build import HOST_ABI
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.install import RUNNERS
from device_agent.runner.shelf import open_runners
from device_agent.virtual import running
from server.cli import show
from server.cli.options import DEFAULT_HOME
from server.golden import GoldenProgram, export_into, golden_key

_CONNECT_SECONDS = 60.0  # somebody may have to accept the key on the phone's screen


def check_runners(named: Path | None, home: Path, phone: str | None) -> bool:
    """Whether everything that could be run held; what could not is said.

    Raises:
        RunnerBundleError: a bundle is missing or altered.
        PhoneUnreachable, PhoneUnauthorised: the phone that was named.
    """
    held = True
    for bundle in open_runners(named, home / RUNNERS):
        manifest = bundle.manifest
        whole = f"manifest and {len(manifest.files)} files are whole"
        show.console.print(f"{bundle.label} for {manifest.abi}, by {manifest.provider}: {whole}")
        if phone is None and manifest.abi != HOST_ABI:
            show.console.print(
                f"  not run: this host is {HOST_ABI}, so it takes a phone (--phone, or fulcrum phone test)"
            )
            continue
        result = _run(bundle, home, phone)
        show.check_steps(result.serial, result.steps)
        held = held and result.passed
    return held


def _run(bundle: RunnerBundle, home: Path, phone: str | None) -> SelfCheck:
    made, files = _golden()
    job = CheckJob(program=made.program, golden=made.golden)
    with _address(phone) as address, Link.connect(address, ensure_key(home / "adbkey"), _CONNECT_SECONDS) as link:
        result = Bench(link, bundle, serial=address).run(job, {name: files / name for name in made.program.files})
    assert isinstance(result, SelfCheck)  # what a CheckJob gives
    return result


@contextmanager
def _address(phone: str | None) -> Iterator[str]:
    """The phone that was named, or a virtual one for as long as it is needed."""
    if phone is not None:
        yield phone
        return
    with (
        tempfile.TemporaryDirectory(prefix="fulcrum-phone-") as directory,
        running(Path(directory) / "phone", accept_first_key=True) as virtual,
    ):
        yield virtual.address


def _golden() -> tuple[GoldenProgram, Path]:
    """The golden Program and the directory of its files, exported once per version of the libraries."""
    place = DEFAULT_HOME / "golden" / golden_key()
    if not (place / "golden.json").is_file():
        show.console.print("Exporting the golden Program, once.")
        place.mkdir(parents=True, exist_ok=True)
        export_into(place)
    return GoldenProgram.model_validate_json((place / "golden.json").read_text()), place
