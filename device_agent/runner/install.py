"""Bringing a bundle into an agent's home: copied or unpacked beside, verified by hash, then given its name."""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from device_agent.runner.bundle import MANIFEST, RunnerBundle, RunnerBundleError, RunnerManifest

RUNNERS = "runners"
_MAX_BYTES = 1 << 30
_MAX_MEMBERS = 256
_CHUNK = 1 << 20


def install(source: Path, home: Path) -> RunnerBundle:
    """Install a directory, .zip or .tar(.gz, .xz) into `home`/runners under the name of its content.

    Only the files that the manifest names are taken, each a plain file beside the manifest.

    Raises:
        RunnerBundleError: no bundle, an archive that is unsafe or broken, or a file that is missing or altered.
    """
    place = home / RUNNERS
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".incoming-") as scratch:
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        if source.is_dir():
            bundle = RunnerBundle(source)
            for name in (MANIFEST, *(file.name for file in bundle.manifest.files)):
                shutil.copyfile(source / name, unpacked / name)
        else:
            _unpack(source, unpacked)
        bundle = RunnerBundle(unpacked)
        _keep_only(unpacked, bundle.manifest)
        target = place / f"{bundle.manifest.id}-{bundle.manifest.executorch}-{bundle.id[:12]}"
        if target.exists():
            shutil.rmtree(target)  # the same content; one that was altered since is mended
        unpacked.rename(target)
    return RunnerBundle(target)


def _keep_only(directory: Path, manifest: RunnerManifest) -> None:
    named = {MANIFEST, *(file.name for file in manifest.files)}
    for path in directory.iterdir():
        if path.name not in named:
            path.unlink()
    for file in manifest.files:
        (directory / file.name).chmod(0o755 if file.executable else 0o644)


def _unpack(archive: Path, into: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bag:
                _take([_zipped(bag, info) for info in bag.infolist() if not info.is_dir()], into)
        else:
            with tarfile.open(archive) as ball:
                _take([_tarred(ball, info) for info in ball if not info.isdir()], into)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise RunnerBundleError(
            f"{archive} is no archive that can be read: {error}.", advice="Give a directory, a .zip or a .tar.gz."
        ) from None
    except FileNotFoundError:
        raise RunnerBundleError(f"There is no {archive}.", advice="Give the bundle's directory or archive.") from None


_Member = tuple[str, int, Callable[[], IO[bytes]]]


def _zipped(bag: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = info.external_attr >> 28  # the upper four bits of a Unix mode: 8 is a plain file, 0 was never set
    if kind not in (0, 8):
        raise _unsafe(info.filename, "is no plain file")
    return info.filename, info.file_size, lambda: bag.open(info)


def _tarred(ball: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if not info.isfile():
        raise _unsafe(info.name, "is no plain file")

    def content() -> IO[bytes]:
        file = ball.extractfile(info)
        assert file is not None  # a plain file has content
        return file

    return info.name, info.size, content


def _take(members: list[_Member], into: Path) -> None:
    """Write the members, which lie side by side: at the top, or in one directory."""
    tops = {name.removeprefix("./").rpartition("/")[0] for name, _, _ in members}
    if len(members) > _MAX_MEMBERS or sum(size for _, size, _ in members) > _MAX_BYTES:
        raise _unsafe("it", f"holds more than {_MAX_MEMBERS} files or {_MAX_BYTES >> 20} MiB")
    for name, size, content in members:
        folder, _, base = name.removeprefix("./").rpartition("/")
        if name.startswith("/") or "\\" in name or "/" in folder or ".." in (folder, base) or base in ("", "."):
            raise _unsafe(name, "leaves the bundle's directory")
        if len(tops) > 1 or (into / base).exists():
            raise _unsafe(name, "does not lie beside the manifest, once")
        with content() as file, (into / base).open("wb") as out:
            left = size
            while left > 0 and (chunk := file.read(min(_CHUNK, left))):
                out.write(chunk)
                left -= len(chunk)


def _unsafe(name: str, why: str) -> RunnerBundleError:
    return RunnerBundleError(
        f"The archive is refused: {name!r} {why}.",
        advice="Pack the bundle's directory anew: runner.json and the files that it names, nothing else.",
    )
