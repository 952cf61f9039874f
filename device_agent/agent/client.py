"""The server as an agent sees it: five calls over HTTP, and their failures by who can mend them."""

import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from device_agent.contracts import (
    AgentReport,
    Blame,
    FulcrumError,
    Lease,
    LeaseHeartbeat,
    LeaseRequest,
    LeaseResult,
    LeaseState,
)
from device_agent.contracts.base import Wire

_SECONDS = 30.0
_GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE})
_Value = TypeVar("_Value", bound=BaseModel)


class Greeting(BaseModel):
    """The server's answer to a report: when the next is due, and which phones to check now."""

    poll_seconds: float
    check: tuple[str, ...] = ()


class ServerUnavailable(FulcrumError):
    """The server does not answer, or answers that it cannot now: try again."""

    blame = Blame.INFRASTRUCTURE
    slug = "server-unavailable"


class ServerRefused(FulcrumError):
    """The server understood and said no."""

    blame = Blame.US
    slug = "server-refused"


class TokenRefused(FulcrumError):
    """The server does not let this agent in."""

    blame = Blame.USER
    slug = "agent-token"


class StaleLease(FulcrumError):
    """The lease is no longer ours: another agent has the job, or nobody wants it any more."""

    blame = Blame.INFRASTRUCTURE
    slug = "stale-lease"


class ArtifactDamaged(FulcrumError):
    """What the server sent is not what its name says."""

    blame = Blame.INFRASTRUCTURE
    slug = "artifact-damaged"


class ServerClient:
    """Safe to share between threads."""

    def __init__(self, url: str, token: str | None = None, *, seconds: float = _SECONDS) -> None:
        """`token` goes along as a bearer token; `seconds` bounds each wait for the server."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.Client(base_url=url.rstrip("/"), headers=headers, timeout=seconds)
        self.url = url

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def report(self, name: str, report: AgentReport) -> Greeting:
        """Tell of the phones."""
        return _parse(Greeting, self._call("PUT", f"/v1/agents/{name}", report))

    def lease(self, request: LeaseRequest) -> Lease | None:
        """Ask for work; None when there is none."""
        answer = self._call("POST", "/v1/leases", request)
        return None if answer.status_code == HTTPStatus.NO_CONTENT else _parse(Lease, answer)

    def heartbeat(self, lease: Lease) -> LeaseState:
        """Keep a lease.

        Raises:
            StaleLease: it is no longer ours.
        """
        body = LeaseHeartbeat(epoch=lease.epoch, secret=lease.secret)
        answer = self._call("POST", f"/v1/leases/{lease.job_id}/heartbeat", body, stale=_GONE)
        return _parse(LeaseState, answer)

    def deliver(self, job_id: str, result: LeaseResult) -> None:
        """Hand in an outcome; the same one again is accepted again.

        Raises:
            StaleLease: it is not wanted, from this holder.
        """
        self._call("POST", f"/v1/leases/{job_id}/result", result, stale=_GONE)

    def download(self, sha256: str, into: Path) -> None:
        """Write an artifact to `into`, verified.

        Raises:
            ArtifactDamaged: its content is not what its name says; `into` is left incomplete.
        """
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", f"/v1/artifacts/{sha256}") as answer, into.open("wb") as file:
                if answer.status_code != HTTPStatus.OK:
                    answer.read()
                    _raise_for(answer)
                for chunk in answer.iter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
        except httpx2.HTTPError as error:
            raise self._away(error) from error
        if digest.hexdigest() != sha256:
            raise ArtifactDamaged(f"Artifact {sha256} arrived with another content.", advice="Try again.")

    def _call(self, method: str, path: str, body: Wire, stale: frozenset[int] = frozenset()) -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        try:
            answer = self._http.request(method, path, content=body.model_dump_json(), headers=headers)
        except httpx2.HTTPError as error:
            raise self._away(error) from error
        if not answer.is_success:
            _raise_for(answer, stale)
        return answer

    def _away(self, error: Exception) -> ServerUnavailable:
        return ServerUnavailable(
            f"The server at {self.url} does not answer: {error or type(error).__name__}.", advice="Is it running?"
        )


def _parse(kind: type[_Value], answer: httpx2.Response) -> _Value:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise ServerRefused(
            f"The server's answer is not a {kind.__name__}: {error}", advice="Are server and agent of one version?"
        ) from None


def _raise_for(answer: httpx2.Response, stale: frozenset[int] = frozenset()) -> None:
    """An error response as one of ours; the body is problem+json (RFC 9457) when it comes from Fulcrum."""
    try:
        problem = answer.json()
        message, advice = str(problem.get("detail") or problem.get("title")), str(problem.get("advice") or "")
    except (ValueError, AttributeError):
        message, advice = answer.text[:200], ""
    said = f"The server answered {answer.status_code}: {message}"
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise TokenRefused(said, advice=advice or "Set FULCRUM_TOKEN to the server's token.")
    if answer.status_code in stale:
        raise StaleLease(said, advice=advice)
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or answer.is_server_error:
        raise ServerUnavailable(said, advice=advice)
    raise ServerRefused(said, advice=advice)
