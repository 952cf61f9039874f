"""The fleet."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from device_agent.contracts import PhoneState
from server.api.deps import IdPath, SerialPath, ServicesDep
from server.api.problems import RESPONSES
from server.api.views import Maintenance, PhoneChange, PhoneRegistration, PhoneView, SelfCheckView
from server.phone_view import PhoneFilter
from server.services import Services

router = APIRouter(prefix="/v1/phones", tags=["phones"], responses=RESPONSES)

Part = Annotated[str | None, Query(max_length=128)]


@router.post("", operation_id="register_phone", status_code=201, responses={200: {"model": PhoneView}})
def register_phone(registration: PhoneRegistration, services: ServicesDep, response: Response) -> PhoneView:
    """Take a phone into the fleet, whether an agent sees it already or not."""
    phone, new = services.fleet.register(registration)
    response.status_code = status.HTTP_201_CREATED if new else status.HTTP_200_OK
    response.headers["location"] = f"/v1/phones/{phone.serial}"
    return _checked(phone, services)


@router.get("", operation_id="list_phones")
def list_phones(
    services: ServicesDep,
    model: Part = None,
    soc: Part = None,
    android: Part = None,
    tag: Annotated[list[str] | None, Query(max_length=32)] = None,
    group: Part = None,
    state: PhoneState | None = None,
) -> list[PhoneView]:
    """Every phone, registered or seen; or those that fit: a part of maker and model, a part of the SoC's name, an
    Android version or its first numbers, all of the tags, the group, the state.
    """
    found = services.fleet.all(PhoneFilter(model, soc, android, tuple(tag or ()), group, state))
    return services.selfchecks.onto(found)


@router.get("/{serial}", operation_id="get_phone")
def get_phone(serial: SerialPath, services: ServicesDep) -> PhoneView:
    """One phone."""
    return _checked(services.fleet.view(serial), services)


@router.patch("/{serial}", operation_id="change_phone")
def change_phone(serial: SerialPath, change: PhoneChange, services: ServicesDep) -> PhoneView:
    """Name, group, tag or annotate a registered phone; what is left out stays, and null takes away."""
    return _checked(services.fleet.change(serial, change), services)


@router.delete("/{serial}", operation_id="remove_phone", status_code=204)
def remove_phone(serial: SerialPath, services: ServicesDep) -> None:
    """Take a phone out of the fleet; its open jobs fail."""
    services.fleet.remove(serial)


@router.post("/{serial}/release", operation_id="release_phone")
def release_phone(serial: SerialPath, services: ServicesDep) -> PhoneView:
    """End a phone's quarantine, or its maintenance."""
    return _checked(services.fleet.release(serial), services)


@router.post("/{serial}/maintenance", operation_id="maintain_phone")
def maintain_phone(serial: SerialPath, maintenance: Maintenance, services: ServicesDep) -> PhoneView:
    """Give a phone no more work until it is released; what it runs now is finished."""
    return _checked(services.fleet.maintain(serial, maintenance), services)


@router.post("/{serial}/check", operation_id="check_phone", status_code=202)
def check_phone(serial: SerialPath, services: ServicesDep) -> PhoneView:
    """Ask for a health check as soon as no job runs on the phone. Its result appears in the phone's `health`; passing
    it ends a quarantine.
    """
    return _checked(services.fleet.check(serial), services)


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
