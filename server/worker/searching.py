"""A search: its ports wired to tables, queue, disk and processes."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import optuna
from sqlalchemy.exc import SQLAlchemyError

from search.candidate import Quality
from search.driver import run
from search.errors import MirrorUnreachable
from search.export import export_candidates, link_program
from search.mirror import Mirror
from search.ports import World
from server.claims import ClaimedSearch
from server.ledger import SearchLedger, SqlBlockCache
from server.ports import PhoneBench
from server.services import Services
from server.settings import Settings
from server.worker.corpus import prepared
from server.worker.pool import make_pool
from trainer.architecture import Architecture
from trainer.proxy import score


def run_search(claimed: ClaimedSearch, services: Services, owner: str) -> None:
    """Run or continue a search to its verdict, on a pool of processes of its own."""
    executor = make_pool()
    try:
        _run_on(executor, claimed, services, owner)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _run_on(executor: Executor, claimed: ClaimedSearch, services: Services, owner: str) -> None:
    spec = claimed.spec
    ledger = SearchLedger(services.database, claimed.id, owner)
    corpus = prepared(services, spec, ledger.progress)
    bench = PhoneBench(services.queue, ledger.cancelled, search=claimed.id, waiting=ledger.waiting)
    effort = spec.effort
    world = World(
        ledger=ledger,
        store=services.artifacts,
        cache=SqlBlockCache(services.database),
        export=export_candidates,
        link=link_program,
        measure=bench.measure,
        score=ProxyScore(executor, corpus.directory, effort.proxy_tokens, effort.proxy_sequence, spec.seed),
        executor=executor,
    )
    run(spec, world, mirror_of(services.settings, claimed.id))


def mirror_of(settings: Settings, search: str) -> Mirror | None:
    """Where the search's trials are copied to, if the settings name an Optuna storage.

    Raises:
        MirrorUnreachable: it cannot be opened.
    """
    if not settings.optuna_storage:
        return None
    try:
        storage = optuna.storages.get_storage(settings.optuna_storage)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise MirrorUnreachable(
            f"the Optuna storage cannot be opened: {error}",
            advice="Check FULCRUM_OPTUNA_STORAGE, or start the server without it.",
        ) from error
    return Mirror(storage, name=f"fulcrum-{search}")


class ProxyScore:
    """This is `search.ports.Score`: one process per architecture, as many at a time as the executor has."""

    def __init__(self, executor: Executor, corpus: Path, tokens: int, sequence: int, seed: int) -> None:
        self._executor = executor
        self._arguments = (corpus, tokens, sequence, seed)

    def __call__(self, architectures: Sequence[Architecture]) -> Sequence[tuple[Quality, float] | Exception]:
        """One (quality, seconds) or exception per architecture, in order."""
        futures = [self._executor.submit(timed_score, architecture, *self._arguments) for architecture in architectures]
        return [_outcome(future) for future in futures]


def _outcome(future: "Future[tuple[Quality, float]]") -> tuple[Quality, float] | Exception:
    try:
        return future.result()
    except Exception as error:
        return error


def timed_score(
    architecture: Architecture, corpus: Path, tokens: int, sequence: int, seed: int
) -> tuple[Quality, float]:
    """Train and score in a process of the pool; the seconds are this process's own."""
    start = time.perf_counter()
    bits_per_byte, trained = score(architecture, corpus, tokens=tokens, sequence=sequence, seed=seed, threads=1)
    return Quality(bits_per_byte=bits_per_byte, tokens=trained), time.perf_counter() - start
