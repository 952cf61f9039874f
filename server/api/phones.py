"""The fleet."""

from fastapi import APIRouter, Response, status

from server.api.deps import SerialPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import PhoneRegistration, PhoneView

router = APIRouter(prefix="/v1/phones", tags=["phones"], responses=RESPONSES)


@router.post("", operation_id="register_phone", status_code=201, responses={200: {"model": PhoneView}})
def register_phone(registration: PhoneRegistration, services: ServicesDep, response: Response) -> PhoneView:
    """Take a phone into the fleet, whether an agent sees it already or not."""
    phone, new = services.fleet.register(registration)
    response.status_code = status.HTTP_201_CREATED if new else status.HTTP_200_OK
    response.headers["location"] = f"/v1/phones/{phone.serial}"
    return phone


@router.get("", operation_id="list_phones")
def list_phones(services: ServicesDep) -> list[PhoneView]:
    """Every phone, registered or seen."""
    return services.fleet.all()


@router.get("/{serial}", operation_id="get_phone")
def get_phone(serial: SerialPath, services: ServicesDep) -> PhoneView:
    """One phone."""
    return services.fleet.view(serial)


@router.delete("/{serial}", operation_id="remove_phone", status_code=204)
def remove_phone(serial: SerialPath, services: ServicesDep) -> None:
    """Take a phone out of the fleet; its open jobs fail."""
    services.fleet.remove(serial)


@router.post("/{serial}/release", operation_id="release_phone")
def release_phone(serial: SerialPath, services: ServicesDep) -> PhoneView:
    """End a phone's quarantine."""
    return services.fleet.release(serial)
