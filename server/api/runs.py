"""Runs: trainings of a candidate."""

from fastapi import APIRouter, Response

from server.api.deps import IdempotencyKey, IdPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import RunView
from server.runs import RunSpec

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


@router.post("/{run}/cancel", operation_id="cancel_run")
def cancel_run(run: IdPath, services: ServicesDep) -> RunView:
    """Ask a run to stop."""
    return services.runbook.cancel(run)
