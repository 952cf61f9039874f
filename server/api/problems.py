"""Errors as RFC 9457 problem details: what happened, and what to do about it."""

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from device_agent.contracts import Blame, FulcrumError
from server import errors
from server.api.views import Problem, ProblemItem
from trainer.errors import TrainerError

_LOG = logging.getLogger(__name__)

_STATUS: dict[type[FulcrumError], HTTPStatus] = {
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.StaleLease: HTTPStatus.CONFLICT,
    errors.OwnershipLost: HTTPStatus.CONFLICT,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.DiskFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.Unauthorised: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.WrongHost: HTTPStatus.MISDIRECTED_REQUEST,
}
_BY_BLAME = {
    Blame.USER: HTTPStatus.UNPROCESSABLE_ENTITY,
    Blame.PHONE: HTTPStatus.BAD_GATEWAY,
    Blame.INFRASTRUCTURE: HTTPStatus.SERVICE_UNAVAILABLE,
    Blame.US: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_ADVICE = {
    HTTPStatus.BAD_REQUEST: "Send the body as JSON in UTF-8, not too deeply nested.",
    HTTPStatus.NOT_FOUND: "See /openapi.json for the addresses that there are.",
    HTTPStatus.METHOD_NOT_ALLOWED: "See /openapi.json for the methods of this address.",
}

_CORRECT = "Correct what `errors` points to, and send it again."
_NOT_JSON = "Send the body as JSON, with the header `Content-Type: application/json`."

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}}
    for status in (400, 401, 403, 404, 409, 413, 421, 422)
}


def problem_of(error: FulcrumError) -> Response:
    """An error raised on purpose, as an answer."""
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), _BY_BLAME[error.blame])
    return _answer(status, error.slug, error.message, error.advice)


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem."""
    app.add_exception_handler(FulcrumError, _on_ours)
    app.add_exception_handler(TrainerError, _on_trainers)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_bug)


def _answer(
    status: HTTPStatus,
    slug: str,
    detail: str,
    advice: str,
    mistakes: tuple[ProblemItem, ...] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    body = Problem(
        type=f"/problems/{slug}",
        title=slug.replace("-", " ").capitalize(),
        status=status,
        detail=detail,
        advice=advice,
        errors=mistakes,
    )
    plain = json.dumps(body.model_dump())  # in ASCII: what we quote may hold half a surrogate pair
    return Response(plain, status, headers=headers, media_type="application/problem+json")


async def _on_ours(_request: Request, error: Exception) -> Response:
    if not isinstance(error, FulcrumError):
        raise error
    return problem_of(error)


async def _on_trainers(_request: Request, error: Exception) -> Response:
    """The trainer knows nothing of who is to blame; what it refuses is the user's to mend."""
    if not isinstance(error, TrainerError):
        raise error
    return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, error.slug, error.message, error.advice)


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = _causes(error.errors())
    mistakes = tuple(ProblemItem(pointer=_pointer(e["loc"]), detail=_said(e["msg"])) for e in found)
    first = mistakes[0]
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return _answer(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        f"{first.pointer}: {first.detail}{more}",
        _NOT_JSON if found[0]["loc"] == ("body",) and not _says_json(request) else _CORRECT,
        mistakes,
    )


def _causes(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what only follows: a list whose items are wrong is then said to be too short, too."""
    places = [e["loc"] for e in found]

    def follows(mistake: dict[str, Any]) -> bool:
        here = mistake["loc"]
        return mistake["type"] == "too_short" and any(p[: len(here)] == here and p != here for p in places)

    return [mistake for mistake in found if not follows(mistake)]


def _said(message: str) -> str:
    """A validator's sentence in the words of JSON."""
    return (
        message.removeprefix("Value error, ")
        .replace("valid tuple", "valid array")
        .replace("Tuple should", "Array should")
    )


def _says_json(request: Request) -> bool:
    return "json" in request.headers.get("content-type", "")


def _pointer(location: tuple[int | str, ...]) -> str:
    """A JSON pointer (RFC 6901) into the body, or where and under which name a parameter was given."""
    where, *rest = location
    if where != "body":
        return ": ".join(str(part) for part in location)
    if len(rest) == 1 and isinstance(rest[0], int):  # the offset at which the body stops being JSON
        return "/"
    return "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in rest)


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    slug = status.phrase.lower().replace(" ", "-")
    headers = dict(error.headers) if error.headers else {}
    if status is HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _methods(request)):
        headers["Allow"] = ", ".join(allowed)
    return _answer(status, slug, str(error.detail), _ADVICE.get(status, ""), headers=headers)


def _methods(request: Request) -> list[str]:
    """All methods of an address (RFC 9110, section 15.5.6); the router names those of one route alone."""
    here = (
        operations
        for template, operations in request.app.openapi()["paths"].items()
        if compile_path(template)[0].match(request.url.path)
    )
    return sorted({method.upper() for operations in here for method in operations})


async def _on_gone(_request: Request, _error: Exception) -> Response:
    """Nobody is left to read this."""
    return _answer(HTTPStatus.BAD_REQUEST, "broken-off", "the request broke off", "Send all of it again.")


async def _on_bug(request: Request, error: Exception) -> Response:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    advice = "This is a mistake of ours. The server's log has the details; please report them."
    return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "something went wrong inside the server", advice)
