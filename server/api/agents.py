"""Agents: their reports, and the leases that they work on."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from device_agent.contracts import AgentReport, Lease, LeaseHeartbeat, LeaseRequest, LeaseResult, LeaseState
from server.api.deps import IdPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import AgentGreeting

router = APIRouter(prefix="/v1", tags=["agents"], responses=RESPONSES)


@router.put("/agents/{name}", operation_id="report_agent", response_model_exclude_unset=True)
def report_agent(
    name: Annotated[str, Path(pattern=r"^[A-Za-z0-9._\-]{1,64}$")], report: AgentReport, services: ServicesDep
) -> AgentGreeting:
    """Say which phones an agent sees, and in what state; hear when to report again, and which phones to check."""
    return services.fleet.report(name, report)


@router.post("/leases", operation_id="lease_job", responses={204: {"description": "No work"}}, response_model=Lease)
def lease_job(request: LeaseRequest, services: ServicesDep) -> Lease | Response:
    """Ask for work for one of the agent's phones."""
    return services.queue.lease(request) or Response(status_code=204)


@router.post("/leases/{job_id}/heartbeat", operation_id="heartbeat")
def heartbeat(job_id: IdPath, beat: LeaseHeartbeat, services: ServicesDep) -> LeaseState:
    """Keep a lease alive, and hear whether to stop."""
    return services.queue.heartbeat(job_id, beat)


@router.post("/leases/{job_id}/result", operation_id="answer_job")
def answer_job(job_id: IdPath, result: LeaseResult, services: ServicesDep) -> LeaseState:
    """Hand in an outcome; the same outcome again is taken as the same answer."""
    services.queue.accept(job_id, result)
    return LeaseState(cancelled=False, seconds=0)
