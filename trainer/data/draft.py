"""A corpus while it is being prepared: a directory beside its target that outlives a killed process, and is resumed."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError
from trainer.files import fsync_directory, write_text


class Draft:
    """What is done already; every file here is whole or recognisably not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, name: str) -> Any:
        """A JSON value that an earlier process saved, or None."""
        path = self.directory / name
        return json.loads(path.read_text()) if path.is_file() else None

    def save(self, name: str, value: Any) -> None:
        """Replace a JSON value: a crash leaves the old one or the new one."""
        self.save_text(name, json.dumps(value))

    def save_text(self, name: str, text: str) -> None:
        """Replace a text file."""
        beside = self.directory / f"{name}.new"
        write_text(beside, text)
        beside.replace(self.directory / name)
        fsync_directory(self.directory)


@contextmanager
def resumable(target: Path, key: str) -> Iterator[Draft | None]:
    """The draft of `target`, held by this process alone; None where another one finished it meanwhile.

    A kill, a full disk or Ctrl-C leaves the draft for the next call with the same key. An error of the trainer's
    removes it: its cause is in what was read, and reading starts again when that is mended.
    """
    path = target.with_name(f".{target.name}.draft")
    held = _held(path)
    try:
        if target.exists():
            shutil.rmtree(path, ignore_errors=True)
            yield None
            return
        draft = Draft(path)
        if draft.load("key.json") != key:
            for old in path.iterdir():
                old.unlink()
            draft.save("key.json", key)
        yield draft
    except TrainerError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        os.close(held)


def finish(draft: Draft, target: Path, scaffold: tuple[str, ...]) -> None:
    """Make the draft the corpus, without the files that only preparing needed."""
    for name in scaffold:
        (draft.directory / name).unlink(missing_ok=True)
    fsync_directory(draft.directory)
    draft.directory.rename(target)
    fsync_directory(target.parent)


def _held(path: Path) -> int:
    """Lock the draft's directory, waiting for whoever has it; the lock ends with its process, however that ends."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)  # it was finished or removed while we waited
