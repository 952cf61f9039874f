"""Searches and their candidates."""

from fastapi import APIRouter, Response

from device_agent.contracts import Measurement
from search.spec import SearchSpec
from server.api.deps import IdempotencyKey, IdPath, NumberPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import CandidateView, SearchView

router = APIRouter(prefix="/v1/searches", tags=["searches"], responses=RESPONSES)


@router.post("", operation_id="submit_search", status_code=202)
def submit_search(
    spec: SearchSpec, services: ServicesDep, response: Response, key: IdempotencyKey = None
) -> SearchView:
    """Ask for a search."""
    search = services.searches.submit(spec, key)
    response.headers["location"] = f"/v1/searches/{search.id}"
    response.headers["retry-after"] = "2"
    return search


@router.get("", operation_id="list_searches")
def list_searches(services: ServicesDep) -> list[SearchView]:
    """Every search, newest first."""
    return services.searches.all()


@router.get("/{search}", operation_id="get_search")
def get_search(search: IdPath, services: ServicesDep) -> SearchView:
    """One search."""
    return services.searches.view(search)


@router.post("/{search}/cancel", operation_id="cancel_search")
def cancel_search(search: IdPath, services: ServicesDep) -> SearchView:
    """Ask a search to stop."""
    return services.searches.cancel(search)


@router.post("/{search}/resume", operation_id="resume_search")
def resume_search(search: IdPath, services: ServicesDep) -> SearchView:
    """Have a search that failed or was cancelled go on from its last candidate."""
    return services.searches.resume(search)


@router.get("/{search}/candidates", operation_id="list_candidates")
def list_candidates(search: IdPath, services: ServicesDep) -> list[CandidateView]:
    """The candidates by number; while the search runs, `on_front` means the front so far."""
    return services.searches.candidates(search)


@router.get("/{search}/candidates/{number}/measurements", operation_id="list_measurements")
def list_measurements(search: IdPath, number: NumberPath, services: ServicesDep) -> list[Measurement]:
    """The raw measurements of one candidate."""
    return services.searches.measurements(search, number)
