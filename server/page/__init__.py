"""The page: a server-rendered shell, and ES modules that draw it from the REST API, without a build step."""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from server.page.shell import STATIC, STATIC_URL, render


def mount(app: FastAPI) -> None:
    """Serve the page at `/` and its files under `/static`."""
    html, policy = render()
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }

    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    app.add_api_route("/", page, include_in_schema=False, response_class=HTMLResponse)
    app.mount(STATIC_URL, StaticFiles(directory=STATIC), name="static")
