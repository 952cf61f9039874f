"""Bytes by their hash."""

from fastapi import APIRouter, Request, Response, status
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from server.api.deps import ServicesDep, Sha256Path
from server.api.problems import RESPONSES
from server.api.views import ArtifactView
from server.errors import TooLarge

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"], responses=RESPONSES)
_CHUNK = 1 << 20


@router.head("/{sha256}", operation_id="has_artifact", response_class=FileResponse)
@router.get("/{sha256}", operation_id="get_artifact", response_class=FileResponse)
def get_artifact(sha256: Sha256Path, services: ServicesDep) -> FileResponse:
    """The bytes."""
    path = services.artifacts.path(sha256)
    headers = {"etag": f'"{sha256}"', "cache-control": "private, max-age=31536000, immutable"}
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


@router.put("/{sha256}", operation_id="put_artifact", status_code=201, responses={200: {"model": ArtifactView}})
async def put_artifact(sha256: Sha256Path, request: Request, services: ServicesDep, response: Response) -> ArtifactView:
    """Store bytes; they must hash to their name. What fails or breaks off leaves nothing behind."""
    store = services.artifacts
    new = not store.has(sha256)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > services.settings.max_artifact_bytes:
        raise TooLarge(
            f"an artifact may have {services.settings.max_artifact_bytes} bytes at most",
            advice="Split the file, or raise FULCRUM_MAX_ARTIFACT_BYTES.",
        )
    incoming = store.incoming(sha256)
    sink = await run_in_threadpool(incoming.__enter__)
    try:
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= _CHUNK:
                await run_in_threadpool(sink.write, bytes(pending))
                pending.clear()
        await run_in_threadpool(sink.write, bytes(pending))
    except BaseException as error:
        if not incoming.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        await run_in_threadpool(incoming.__exit__, None, None, None)
    response.status_code = status.HTTP_201_CREATED if new else status.HTTP_200_OK
    return ArtifactView(sha256=sha256, size=sink.size)
