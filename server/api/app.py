"""The application factory."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from server import page
from server.api import agents, artifacts, corpora, live, phones, problems, runs, searches
from server.api.security import Guard
from server.clock import Clock, utc_now
from server.services import Services
from server.settings import Settings

_LOG = logging.getLogger(__name__)
_REAP_SECONDS = 2.0
_PREPARE_SECONDS = 0.5


def create_app(settings: Settings, clock: Clock = utc_now) -> FastAPI:
    """The service over a migrated database: REST under /v1, live events, and the page at /.

    Setting `app.state.closing` (an asyncio.Event, there once the application has started) ends the live streams.
    """
    services = Services.of(settings, clock)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.closing = asyncio.Event()
        tasks = [asyncio.create_task(_reap_forever(services)), asyncio.create_task(_prepare_forever(services))]
        yield
        app.state.closing.set()
        services.golden.close()
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        services.database.close()

    app = FastAPI(
        title="Fulcrum", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.services = services
    problems.install(app)
    for part in (live, agents, phones, artifacts, corpora, searches, runs):
        app.include_router(part.router)
    page.mount(app)
    app.add_middleware(Guard, settings=settings)
    return app


async def _reap_forever(services: Services) -> None:
    while True:
        try:
            await run_in_threadpool(services.queue.reap)
        except Exception:
            _LOG.exception("taking lapsed leases back failed; the next round tries again")
        await asyncio.sleep(_REAP_SECONDS)


async def _prepare_forever(services: Services) -> None:
    while True:
        try:
            await run_in_threadpool(services.selfchecks.prepare)
        except Exception:
            _LOG.exception("preparing self-checks failed; the next round tries again")
        await asyncio.sleep(_PREPARE_SECONDS)
