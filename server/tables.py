"""The tables. Times are UTC; `*_json` columns hold the JSON of the wire type that their reader names."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, ForeignKey, Index, Integer, MetaData, Text, TypeDecorator, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Utc(TypeDecorator[datetime]):
    """An aware datetime. SQLite keeps no offset, so everything is stored as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # SQLAlchemy calls it so
        """To UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # SQLAlchemy calls it so
        """Aware again."""
        if value is None:
            return None
        aware: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return aware


class Base(DeclarativeBase):
    """The root of the tables, with constraint names that both databases and Alembic agree on."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: Utc(), str: Text(), int: BigInteger()}  # noqa: RUF012  # SQLAlchemy reads it so


class AgentRow(Base):
    """A host that reports phones; a new incarnation supersedes the old."""

    __tablename__ = "agents"

    name: Mapped[str] = mapped_column(primary_key=True)
    incarnation: Mapped[str]
    version: Mapped[str]
    host: Mapped[str]
    last_seen: Mapped[datetime]


class PhoneRow(Base):
    """A phone that a user registered, an agent saw, or both."""

    __tablename__ = "phones"

    serial: Mapped[str] = mapped_column(primary_key=True)
    registered: Mapped[bool] = mapped_column(default=False)
    name: Mapped[str | None]
    tags_json: Mapped[str] = mapped_column(default="[]")
    group_name: Mapped[str | None]
    note: Mapped[str | None]
    agent: Mapped[str | None]
    via: Mapped[str | None]
    state: Mapped[str] = mapped_column(default="unproven")
    facts_json: Mapped[str | None]
    fault_json: Mapped[str | None]
    vitals_json: Mapped[str | None]
    health_json: Mapped[str | None]
    worker_json: Mapped[str | None]
    probed_at: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]
    usable_at: Mapped[datetime | None]
    faults_in_a_row: Mapped[int] = mapped_column(default=0)
    quarantine_json: Mapped[str | None]
    quarantined_at: Mapped[datetime | None]
    maintenance_json: Mapped[str | None]
    check_at: Mapped[datetime | None]
    check_told_at: Mapped[datetime | None]


class ArtifactRow(Base):
    """Bytes that lie in the artifact store."""

    __tablename__ = "artifacts"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    created_at: Mapped[datetime]


class CorpusRow(Base):
    """A list of artifacts to read text from; its id is the hash of the list."""

    __tablename__ = "corpora"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    files_json: Mapped[str]
    bytes: Mapped[int]
    created_at: Mapped[datetime]


class _Work:
    """What searches and runs share: state, progress, and the worker that holds them."""

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    progress_json: Mapped[str] = mapped_column(default="{}")
    fault_json: Mapped[str | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    owner: Mapped[str | None]
    owner_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)


class SearchRow(_Work, Base):
    """A search."""

    __tablename__ = "searches"

    spec_json: Mapped[str]
    verdict_json: Mapped[str | None]


class CandidateRow(Base):
    """A candidate; `number` is its trial's number."""

    __tablename__ = "candidates"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    phase: Mapped[str]
    feasible: Mapped[bool]
    body_json: Mapped[str]


class ExportedBlockRow(Base):
    """An exported block under the hash of what determines it."""

    __tablename__ = "exported_blocks"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    created_at: Mapped[datetime]


class RunRow(_Work, Base):
    """A run."""

    __tablename__ = "runs"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    spec_json: Mapped[str]
    architecture_json: Mapped[str]
    program_json: Mapped[str | None]
    profiles_json: Mapped[str] = mapped_column(default="{}")
    generation_json: Mapped[str | None]
    check_json: Mapped[str | None]
    text: Mapped[str | None]
    reached_json: Mapped[str] = mapped_column(default="[]")


class StageRow(Base):
    """A stage of a run, in its place."""

    __tablename__ = "stages"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    body_json: Mapped[str]


class MetricRow(Base):
    """A point of a stage's metrics; what it holds of them is JSON, by name."""

    __tablename__ = "metrics"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tokens: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    values_json: Mapped[str]


class JobRow(Base):
    """Work for one phone. `server.queue.machine` says how it moves."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_leased_serial",
            "serial",
            unique=True,
            sqlite_where=text("state = 'leased'"),
            postgresql_where=text("state = 'leased'"),
        ),
        Index("ix_jobs_state_serial", "state", "serial"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    dedup_key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    serial: Mapped[str]
    search_id: Mapped[str | None] = mapped_column(index=True)
    run_id: Mapped[str | None] = mapped_column(index=True)
    number: Mapped[int | None]
    payload_json: Mapped[str]
    state: Mapped[str]
    epoch: Mapped[int]
    attempts: Mapped[int]
    cancel_requested: Mapped[bool]
    created_at: Mapped[datetime]
    not_before: Mapped[datetime]
    agent: Mapped[str | None]
    secret_hash: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    answer_hash: Mapped[str | None]
    outcome_json: Mapped[str | None]
    finished_at: Mapped[datetime | None]


class SelfCheckRow(Base):
    """A self-check that somebody asked for. Its job, made once the golden Program is there, holds what came of it."""

    __tablename__ = "self_checks"

    id: Mapped[str] = mapped_column(primary_key=True)
    serial: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[datetime]
    job_id: Mapped[str | None]
    fault_json: Mapped[str | None]


class EventRow(Base):
    """One change that a page may want to show; `seq` rises in commit order and is never used twice."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    # SQLite gives numbers by itself only to a column whose type is INTEGER exactly.
    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    type: Mapped[str]
    subject: Mapped[str]
    search_id: Mapped[str | None]
    at: Mapped[datetime]


class IdempotencyRow(Base):
    """A request that was answered, under the key that its client gave."""

    __tablename__ = "idempotency_keys"

    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[datetime]
