"""The page: a server-rendered shell and plain ES modules, without a build."""

from fastapi import FastAPI


def mount(app: FastAPI) -> None:
    """Add the page's routes to the application."""
    app.state.page = True
