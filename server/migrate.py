"""Bring a database to the newest tables, and say whether the tables and the migrations agree."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

import migrations
from server.errors import DatabaseUnusable
from server.tables import Base


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """From wherever the database is (empty too) to `revision`; safe to call at every start.

    Raises:
        DatabaseUnusable: nobody answers there, or its tables are none that this version knows.
    """
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        command.upgrade(_config(url), revision)
    except (SQLAlchemyError, CommandError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise DatabaseUnusable(
            f"the database cannot be used: {reason}",
            advice="Check FULCRUM_DATABASE_URL and the database's log. No Fulcrum can use the tables of a newer one.",
        ) from error


def at_head(url: str) -> bool:
    """Whether the database has every migration."""
    head = ScriptDirectory.from_config(_config(url)).get_current_head()
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head
    finally:
        engine.dispose()


def differences(url: str) -> list[object]:
    """What the tables have and the migrated database has not, or the other way; empty when they agree."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            return list(compare_metadata(context, Base.metadata))
    finally:
        engine.dispose()
