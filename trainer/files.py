"""Writing so that a crash leaves either the old or the new."""

import errno
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
    remove_drafts(target.parent, target.name)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.mkdir(parents=True)
    return draft


def remove_drafts(folder: Path, name: str = "*") -> None:
    """Remove the drafts of `name` in `folder`, except those that other living processes write."""
    for old in folder.glob(f".{name}.*.draft"):
        owner = int(old.name.rsplit(".", 2)[1])
        if owner == os.getpid() or not _alive(owner):
            shutil.rmtree(old, ignore_errors=True)


def is_full(error: BaseException | None) -> bool:
    """Whether it comes of a disk or a quota that is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if f"os error {errno.ENOSPC}" in str(error):  # safetensors has only words
            return True
        error = error.__cause__ or error.__context__
    return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
