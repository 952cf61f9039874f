"""Templates that this machine has learnt before, for whichever home or search: one file each in the user's cache.

Learning a template takes seconds to tens of seconds, and what it gives depends on the toolchain and our code alone. So
a fresh home need not learn anew. A file holds its own hash first: one that was cut short or altered is as good as none.
"""

import hashlib
import logging
import os
import tempfile
from functools import cache
from pathlib import Path

from device_agent.contracts import Sha256

_log = logging.getLogger(__name__)
_UNUSABLE = (OSError, RuntimeError)  # the latter: whoever runs this has no home


def find(key: Sha256) -> str | None:
    """What was kept under `key`; None where there is nothing whole."""
    try:
        seal, _, value = (directory() / key).read_text(encoding="utf-8").partition("\n")
    except (*_UNUSABLE, ValueError):  # the latter: bytes that are no text
        return None
    return value if seal == _seal(key, value) else None


def keep(key: Sha256, value: str) -> None:
    """Keep `value` whole or not at all, whoever else keeps it now; a cache that cannot be written is said, no more."""
    try:
        directory().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory()) as scratch:
            part = Path(scratch) / key
            part.write_text(f"{_seal(key, value)}\n{value}", encoding="utf-8")
            part.replace(directory() / key)
    except _UNUSABLE as error:
        _log.warning("a template is not kept for other homes: %s", error)


def directory() -> Path:
    """FULCRUM_CACHE, or the user's cache directory as the XDG base directory specification has it; by our code."""
    chosen = os.environ.get("FULCRUM_CACHE")
    standard = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = Path(chosen) if chosen else Path(standard).expanduser() / "fulcrum"
    return root / "templates" / _code()


@cache
def _code() -> str:
    """A template's key tells its toolchain; how it was learnt and what is read out of it is told by this package."""
    ours = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(ours).hexdigest()[:16]


def _seal(key: Sha256, value: str) -> str:
    return hashlib.sha256(f"{key}\n{value}".encode()).hexdigest()
