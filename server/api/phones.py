"""The fleet."""

from fastapi import APIRouter, Response, status

from server.api.deps import IdPath, SerialPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import PhoneRegistration, PhoneView, SelfCheckView
from server.services import Services

router = APIRouter(prefix="/v1/phones", tags=["phones"], responses=RESPONSES)


@router.post("", operation_id="register_phone", status_code=201, responses={200: {"model": PhoneView}})
def register_phone(registration: PhoneRegistration, services: ServicesDep, response: Response) -> PhoneView:
    """Take a phone into the fleet, whether an agent sees it already or not."""
    phone, new = services.fleet.register(registration)
    response.status_code = status.HTTP_201_CREATED if new else status.HTTP_200_OK
    response.headers["location"] = f"/v1/phones/{phone.serial}"
    return _checked(phone, services)


@router.get("", operation_id="list_phones")
def list_phones(services: ServicesDep) -> list[PhoneView]:
    """Every phone, registered or seen."""
    return services.selfchecks.onto(services.fleet.all())


@router.get("/{serial}", operation_id="get_phone")
def get_phone(serial: SerialPath, services: ServicesDep) -> PhoneView:
    """One phone."""
    return _checked(services.fleet.view(serial), services)


@router.delete("/{serial}", operation_id="remove_phone", status_code=204)
def remove_phone(serial: SerialPath, services: ServicesDep) -> None:
    """Take a phone out of the fleet; its open jobs fail."""
    services.fleet.remove(serial)


@router.post("/{serial}/release", operation_id="release_phone")
def release_phone(serial: SerialPath, services: ServicesDep) -> PhoneView:
    """End a phone's quarantine."""
    return _checked(services.fleet.release(serial), services)


@router.post("/{serial}/test", operation_id="test_phone", status_code=202)
def test_phone(serial: SerialPath, services: ServicesDep, response: Response) -> SelfCheckView:
    """Ask for the self-check that a phone must pass before its figures count; follow it at `location`."""
    check = services.selfchecks.request(serial)
    response.headers["location"] = f"/v1/phones/{serial}/test/{check.id}"
    return check


@router.get("/{serial}/test/{check}", operation_id="get_phone_test")
def get_phone_test(serial: SerialPath, check: IdPath, services: ServicesDep) -> SelfCheckView:
    """A self-check, as far as it is."""
    return services.selfchecks.view(serial, check)


def _checked(phone: PhoneView, services: Services) -> PhoneView:
    return services.selfchecks.onto([phone])[0]
