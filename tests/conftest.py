"""What all tests of a session share, pytest-xdist's workers included: one thread a process, what is dear to make."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from device_agent.runner.build import build
from device_agent.runner.bundle import RunnerBundle

# Before torch is imported. Tests and their processes fill the cores already; threads beside them would spin and wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files begin in this order, and then the others: the longest first, lest a worker is left alone with one. The
# main job learns the templates that tests of the export use; nobody waits for it, but nobody learns them beside it.
_FIRST = (
    "test_main_job",
    "test_page",
    "test_phone_check",
    "test_killed_training",
    "test_ranks",
    "test_cli",
    "test_phone_processes",
    "test_settings",
)

_CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Templates are learnt once a session; name a FULCRUM_CACHE to have them from session to session."""
    if "FULCRUM_CACHE" not in os.environ:  # workers and inner sessions find it there
        config.stash[_CACHE] = tempfile.TemporaryDirectory(prefix="fulcrum-tests-")
        os.environ["FULCRUM_CACHE"] = config.stash[_CACHE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    if _CACHE in config.stash:
        config.stash[_CACHE].cleanup()
        del os.environ["FULCRUM_CACHE"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return _FIRST.index(item.path.stem) if item.path.stem in _FIRST else len(_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def host_runner() -> RunnerBundle:
    """The runner that virtual phones run, compiled once a session; nobody alters it."""
    directory = Path(os.environ["FULCRUM_CACHE"]) / "tests" / "runner"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory.parent / "runner.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(directory)
