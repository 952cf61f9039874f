"""Health, and the live events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server import events, migrate
from server.api.deps import ServicesDep
from server.api.problems import RESPONSES
from server.api.views import Health
from server.errors import NotReady

router = APIRouter(tags=["service"])
_POLL_SECONDS = 0.4


@router.get("/healthz", operation_id="healthz")
def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", operation_id="readyz", responses=RESPONSES)
def readyz(services: ServicesDep) -> Health:
    """The database answers, and has every migration."""
    if not migrate.at_head(services.settings.url):
        raise NotReady("the database lacks migrations", advice="Run `fulcrum db upgrade`, or start the server again.")
    return Health()


@router.get("/v1/events", operation_id="stream_events", response_class=EventSourceResponse)
async def stream_events(
    request: Request,
    services: ServicesDep,
    after: Annotated[
        int | None, Query(ge=0, lt=2**63, description="Send what follows this event; default is from now on")
    ] = None,
    last_event_id: Annotated[
        int | None, Header(ge=0, lt=2**63, description="As `after`; browsers send it on their own")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """What changes, as it changes (server-sent events); an event's id is what `after` means."""
    seq = last_event_id if last_event_id is not None else after
    if seq is None:
        seq = await run_in_threadpool(events.newest, services.database)
    yield ServerSentEvent(comment="from here on", retry=1000)
    closing: asyncio.Event = request.app.state.closing
    while not closing.is_set():
        found = await run_in_threadpool(events.after, services.database, seq)
        for seq, event in found:
            yield ServerSentEvent(data=event, id=str(seq))
        if not found:
            await _pause(closing)


async def _pause(closing: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(closing.wait(), _POLL_SECONDS)
    except TimeoutError:
        return
