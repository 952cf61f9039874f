"""What the routes are given."""

from typing import Annotated

from fastapi import Depends, Header, Path, Request

from server.services import Services


def services_of(request: Request) -> Services:
    """The application's services."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
Sha256Path = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
IdPath = Annotated[str, Path(pattern=r"^[^\x00]{1,128}$")]  # PostgreSQL's text holds no NUL
NumberPath = Annotated[int, Path(ge=0, lt=2**31)]
SerialPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:\-]{1,128}$")]
