"""Writing so that a crash leaves either the old or the new."""

import os
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
