"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from device_agent.contracts import Blame, FulcrumError
from server.chat.desk import Busy, Closing
from server.errors import Forbidden, NotFound, TooLarge, Unauthorised, WrongHost
from trainer.errors import TrainerError

_LOG = logging.getLogger(__name__)
_STATUS: dict[type[FulcrumError], HTTPStatus] = {
    Busy: HTTPStatus.TOO_MANY_REQUESTS,
    Closing: HTTPStatus.SERVICE_UNAVAILABLE,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Unauthorised: HTTPStatus.UNAUTHORIZED,
    WrongHost: HTTPStatus.MISDIRECTED_REQUEST,
}
_CODES = {"unauthorised": "invalid_api_key", "context-overflow": "context_length_exceeded"}


class UnknownModel(NotFound):
    """A request names a model that is not served."""

    slug = "model_not_found"


def body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, object]:
    """An error as a value, for answers and for streams that have begun."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: Exception) -> tuple[int, dict[str, object]]:
    """(status, body) of whatever was raised."""
    match error:
        case FulcrumError():
            usual = HTTPStatus.BAD_REQUEST if error.blame is Blame.USER else HTTPStatus.INTERNAL_SERVER_ERROR
            status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), usual)
            return status, body(status, _words(error.message, error.advice), _CODES.get(error.slug, error.slug))
        case TrainerError():
            words = _words(error.message, error.advice)
            return HTTPStatus.BAD_REQUEST, body(400, words, _CODES.get(error.slug, error.slug))
        case _:
            _LOG.error("a request failed", exc_info=error)
            return HTTPStatus.INTERNAL_SERVER_ERROR, body(500, "the server failed; its log says how")


def answer_of(error: Exception) -> Response:
    """An error as an answer."""
    status, said = body_of(error)
    headers = {"retry-after": "1"} if status == HTTPStatus.TOO_MANY_REQUESTS else {}
    return JSONResponse(said, status, headers)


def install(app: FastAPI) -> None:
    """Answer every error of the application in OpenAI's shape."""
    for kind in (FulcrumError, TrainerError, Exception):
        app.add_exception_handler(kind, _on_raised)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_gone)


async def _on_raised(_: Request, error: Exception) -> Response:
    return answer_of(error)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    what = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        what = "this server does not know this argument"
    elif first["type"] == "json_invalid":
        where, what = "", "the body is not JSON"
    return JSONResponse(body(400, f"{where}: {what}" if where else what, str(first["type"]), where or None), 400)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = "there is nothing at this address" if error.status_code == HTTPStatus.NOT_FOUND else error.detail
    return JSONResponse(body(error.status_code, words), error.status_code, error.headers)


async def _on_gone(_: Request, error: Exception) -> Response:  # noqa: ARG001  # a handler's signature
    return Response(status_code=499)


def _words(message: str, advice: str) -> str:
    return f"{message} ({advice.rstrip('.')})" if advice else message
