"""The service's parts, made once from the settings: the API and the worker each make their own set."""

from dataclasses import dataclass

from server.artifacts import ArtifactStore
from server.claims import Claims
from server.clock import Clock, utc_now
from server.corpora import Corpora
from server.database import Database
from server.fleet import Fleet
from server.golden import GoldenExport
from server.ledger import SqlBlockCache
from server.queue.machine import Policy
from server.queue.store import JobQueue
from server.runbook import Runbook
from server.searches import Searches
from server.selfchecks import SelfChecks
from server.settings import Settings


@dataclass(frozen=True)
class Services:
    """Everything that works on the tables."""

    settings: Settings
    database: Database
    queue: JobQueue
    fleet: Fleet
    artifacts: ArtifactStore
    corpora: Corpora
    searches: Searches
    runbook: Runbook
    claims: Claims
    golden: GoldenExport
    selfchecks: SelfChecks

    @classmethod
    def of(cls, settings: Settings, clock: Clock = utc_now) -> "Services":
        """Wire them up; the database must be migrated (`server.migrate.upgrade`)."""
        settings.home.mkdir(parents=True, exist_ok=True)
        database = Database(settings.url)
        policy = Policy(lease_seconds=settings.lease_seconds, attempts=settings.attempts)
        queue = JobQueue(
            database,
            policy,
            quarantine_after=settings.quarantine_after,
            quarantine_seconds=settings.quarantine_seconds,
            queue_seconds=settings.queue_seconds,
            clock=clock,
        )
        artifacts = ArtifactStore(database, settings, clock)
        golden = GoldenExport(artifacts, SqlBlockCache(database, clock))
        corpora = Corpora(database, artifacts, clock)
        return cls(
            settings=settings,
            database=database,
            queue=queue,
            fleet=Fleet(
                database,
                clock,
                quarantine_after=settings.quarantine_after,
                quarantine_seconds=settings.quarantine_seconds,
            ),
            artifacts=artifacts,
            corpora=corpora,
            searches=Searches(database, queue, corpora, clock),
            runbook=Runbook(database, queue, clock),
            claims=Claims(database, queue, clock=clock),
            golden=golden,
            selfchecks=SelfChecks(database, queue, golden, clock),
        )
