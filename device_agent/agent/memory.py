"""How much memory a process holds."""

import os
from pathlib import Path


def rss_bytes(pid: int) -> int | None:
    """Resident memory of a process; None where there is no /proc, or no such process."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None
