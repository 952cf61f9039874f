"""Files in which a round keeps what it made: whole, or not there."""

import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.files import fsync_directory, write_text
from trainer.preference.rows import PreferenceError


def write(path: Path, text: str) -> None:
    """All of it, or nothing; its directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    write_text(draft, text)
    draft.rename(path)
    fsync_directory(path.parent)


def write_of(path: Path, begun: str, values: dict[str, Any]) -> None:
    """What the model of the checkpoint `begun` led to, as JSON."""
    write(path, json.dumps({"begun": begun, **values}, indent=2))


def read_of(path: Path, begun: str) -> dict[str, Any] | None:
    """What `write_of` wrote; None where nothing is there, or it is another model's.

    Raises:
        PreferenceError: it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found if found.pop("begun") == begun else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError) as wrong:
        raise PreferenceError(f"{path} is damaged: {wrong!r}", advice="delete it: it is made again") from wrong


def sum_of(path: Path) -> str:
    """sha256 of a file.

    Raises:
        PreferenceError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as wrong:
        raise PreferenceError(f"{path} cannot be read: {wrong}", advice="check the path") from wrong
