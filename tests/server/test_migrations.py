"""From empty to head, on both databases, and the tables are what the migrations made."""

import pytest
from alembic import command
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from server import migrate
from server.settings import Settings
from server.tables import Base


def test_upgrade_from_empty_gives_exactly_the_tables(empty_url: str) -> None:
    url = Settings(database_url=empty_url).url
    migrate.upgrade(url)
    assert migrate.at_head(url)
    assert migrate.differences(url) == []
    engine = create_engine(url)
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    engine.dispose()


def test_upgrade_again_keeps_what_is_there(settings: Settings) -> None:
    engine = create_engine(settings.url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO exported_blocks VALUES ('k', 'v', '2026-01-01 00:00:00')"))
    migrate.upgrade(settings.url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT value FROM exported_blocks")).scalar_one() == "v"
    engine.dispose()


def test_a_run_of_the_revision_before_is_kept_and_gets_metrics(empty_url: str) -> None:
    url = Settings(database_url=empty_url).url
    migrate.upgrade(url, "0003")
    engine = create_engine(url)
    work = "id, name, state, created_at, progress_json, cancel_requested, spec_json"
    run = f"{work}, search_id, number, architecture_json, profiles_json"
    at = "'2026-01-01 00:00:00'"
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO searches ({work}) VALUES ('s', 's', 'queued', {at}, '{{}}', false, '')"))
        connection.execute(
            text(f"INSERT INTO runs ({run}) VALUES ('r', 'r', 'queued', {at}, '{{}}', false, '', 's', 1, '', '')")
        )
    migrate.upgrade(url)
    assert migrate.differences(url) == []
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO metrics VALUES ('r', 0, {10**15}, {at}, '{{}}')"))
        assert connection.execute(text("SELECT tokens FROM metrics JOIN runs ON run_id = id")).scalar_one() == 10**15
    engine.dispose()


def test_attempts_come_and_go_and_what_is_there_is_kept(settings: Settings) -> None:
    work = "id, name, state, created_at, progress_json, cancel_requested, spec_json"
    run = f"{work}, search_id, number, architecture_json, profiles_json"
    at = "'2026-01-01 00:00:00'"
    engine = create_engine(settings.url)
    command.downgrade(migrate._config(settings.url), "0004")
    assert "attempts" not in {column["name"] for column in inspect(engine).get_columns("runs")}
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO searches ({work}) VALUES ('s', 's', 'running', {at}, '', false, '')"))
        connection.execute(
            text(f"INSERT INTO runs ({run}) VALUES ('r', 'r', 'running', {at}, '', false, '', 's', 1, '', '')")
        )
        connection.execute(text("INSERT INTO stages VALUES ('r', 0, '')"))
    migrate.upgrade(settings.url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT attempts, reached_json FROM runs")).one() == (0, "[]")
        assert connection.execute(text("SELECT attempts FROM searches")).one() == (0,)
    command.downgrade(migrate._config(settings.url), "0004")
    with engine.begin() as connection:
        assert connection.execute(text("SELECT run_id FROM stages JOIN runs ON run_id = id")).one() == ("r",)
        assert connection.execute(text("SELECT id FROM searches")).one() == ("s",)
    migrate.upgrade(settings.url)
    assert migrate.differences(settings.url) == []
    engine.dispose()


def test_a_difference_is_found(settings: Settings) -> None:
    engine = create_engine(settings.url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE idempotency_keys"))
    engine.dispose()
    assert migrate.differences(settings.url)


def test_the_database_itself_refuses_a_second_lease_of_a_phone(settings: Settings) -> None:
    engine = create_engine(settings.url)
    insert = text(
        "INSERT INTO jobs (id, dedup_key, kind, serial, payload_json, state, epoch, attempts, cancel_requested,"
        " created_at, not_before)"
        " VALUES (:id, :id, 'measure', 'one', '{}', :state, 1, 1, :no, '2026-01-01 00:00:00', '2026-01-01 00:00:00')"
    )
    with engine.begin() as connection:
        for name, state in (("a", "leased"), ("b", "queued"), ("c", "succeeded")):
            connection.execute(insert, {"id": name, "state": state, "no": False})
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(insert, {"id": "d", "state": "leased", "no": False})
    engine.dispose()
