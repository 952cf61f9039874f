"""Writing so that a crash leaves either the old or the new."""

import os
import shutil
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write and flush to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Make names created or renamed in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Flush a file that somebody else wrote."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fresh_draft(target: Path) -> Path:
    """An empty directory beside `target`, to be renamed to it; drafts of processes that died are removed."""
    for old in target.parent.glob(f".{target.name}.*.draft"):
        owner = int(old.name.rsplit(".", 2)[1])
        if owner == os.getpid() or not _alive(owner):
            shutil.rmtree(old, ignore_errors=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    return draft


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
