"""Who may ask: the token, requests that browsers send on behalf of other sites, and what a page may load."""

import hmac
from collections.abc import Callable
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device_agent.contracts import FulcrumError
from server.api.problems import problem_of
from server.errors import Forbidden, TooLarge, Unauthorised, WrongHost
from server.settings import Settings

COOKIE = "fulcrum_token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN = frozenset({"/healthz", "/readyz"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_UNLIMITED = "/v1/artifacts/"  # it has a limit of its own
_MAX_BODY = 64 << 20
_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Refuses what comes without the token or from another site's page; adds the headers that bind browsers."""

    def __init__(
        self, app: ASGIApp, settings: Settings, refused: Callable[[FulcrumError], Response] = problem_of
    ) -> None:
        """`refused` words a refusal."""
        self._app, self._refused = app, refused
        # A foreign name that resolves to 127.0.0.1 (DNS rebinding) must not reach us through a user's browser.
        self._loopback = settings.loopback
        self._token = None if settings.token is None else settings.token.get_secret_value()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(scope)
        await (answer or self._app)(scope, receive if answer else _limited(scope, receive), send_guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """What is answered at once, without asking the application."""
        headers, query = Headers(scope=scope), dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if self._token is not None and scope["path"] == "/" and self._known(query.get("token")):
            return _sign_in(query, self._token)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            return None
        answer = self._refused(refusal)
        if isinstance(refusal, Unauthorised):
            answer.headers["www-authenticate"] = "Bearer"
        return answer

    def _refusal(self, scope: Scope, headers: Headers) -> FulcrumError | None:
        if self._loopback and _hostname(headers.get("host", "")) not in _LOOPBACK:
            return WrongHost("this server answers to localhost only", advice="Open it as http://127.0.0.1:<port>/.")
        if scope["method"] not in _SAFE and is_cross_site(headers):
            return Forbidden("a page of another site sent this request", advice="Use Fulcrum's own page, or its API.")
        if not scope["path"].startswith(_UNLIMITED) and _length(headers) > _MAX_BODY:
            return TooLarge(f"a body may have {_MAX_BODY} bytes at most", advice="Send files to /v1/artifacts.")
        if self._token is None or scope["path"] in _OPEN:
            return None
        if self._known(_bearer(headers)) or self._known(_cookie(headers)):
            return None
        return Unauthorised(
            "this server asks for a token",
            advice="Send `Authorization: Bearer <token>`, or open the page once as /?token=<token>.",
        )

    def _known(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode(), (self._token or "").encode())


def is_cross_site(headers: Headers) -> bool:
    """Whether a browser says that another origin's page sent this; programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _hostname(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is no host at all."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _length(headers: Headers) -> int:
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdigit() else 0


def _limited(scope: Scope, receive: Receive) -> Receive:
    """A body without a declared length is cut off at the limit, too."""
    if scope["path"].startswith(_UNLIMITED):
        return receive
    taken = 0

    async def receive_limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > _MAX_BODY:
            raise TooLarge(f"a body may have {_MAX_BODY} bytes at most", advice="Send files to /v1/artifacts.")
        return message

    return receive_limited


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None


def _cookie(headers: Headers) -> str | None:
    morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    return None if morsel is None else morsel.value


def _sign_in(query: dict[str, str], token: str) -> Response:
    """Move the token from the address, where it would stay in histories, into a cookie that scripts cannot read."""
    rest = urlencode({name: value for name, value in query.items() if name != "token"})
    answer = RedirectResponse(f"/?{rest}" if rest else "/", status_code=303)
    answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
    return answer
