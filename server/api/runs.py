"""Runs: trainings of a candidate."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from server.api.deps import IdempotencyKey, IdPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import RunView, StageMetrics
from server.runs import RunSpec
from server.series import LIMIT

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=RESPONSES)


@router.post("", operation_id="submit_run", status_code=202)
def submit_run(spec: RunSpec, services: ServicesDep, response: Response, key: IdempotencyKey = None) -> RunView:
    """Ask for a candidate to be trained, exported, measured, and made to talk on the phone."""
    run = services.runbook.submit(spec, key)
    response.headers["location"] = f"/v1/runs/{run.id}"
    response.headers["retry-after"] = "2"
    return run


@router.get("", operation_id="list_runs")
def list_runs(services: ServicesDep) -> list[RunView]:
    """Every run, newest first."""
    return services.runbook.all()


@router.get("/{run}", operation_id="get_run")
def get_run(run: IdPath, services: ServicesDep) -> RunView:
    """One run."""
    return services.runbook.view(run)


@router.get("/{run}/metrics", operation_id="get_run_metrics")
def get_run_metrics(
    run: IdPath,
    services: ServicesDep,
    stage: Annotated[
        int | None, Query(ge=0, lt=2**31, description="Position of a stage, from 0; all without it")
    ] = None,
    name: Annotated[
        tuple[str, ...], Query(max_length=100, description="A metric to show; again for more; all without it")
    ] = (),
    since: Annotated[int, Query(ge=0, lt=2**63, description="Only points after so many tokens of their stage")] = 0,
    limit: Annotated[int, Query(ge=2, le=LIMIT, description="At most so many points a stage, evenly spread")] = LIMIT,
) -> list[StageMetrics]:
    """The metrics of a run's stages as they train: loss, bits per byte held out, tokens per second, ..."""
    return services.runbook.metrics(run, stage=stage, names=name, since=since, limit=limit)


@router.post("/{run}/cancel", operation_id="cancel_run")
def cancel_run(run: IdPath, services: ServicesDep) -> RunView:
    """Ask a run to stop."""
    return services.runbook.cancel(run)


@router.post("/{run}/resume", operation_id="resume_run")
def resume_run(run: IdPath, services: ServicesDep) -> RunView:
    """Have a run that failed or was cancelled go on from its last checkpoint."""
    return services.runbook.resume(run)
