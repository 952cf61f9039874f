"""Serve the application until a signal comes, and end its live streams then."""

from types import FrameType

import uvicorn
from fastapi import FastAPI

from server import migrate
from server.api.app import create_app
from server.settings import Settings

_GRACE_SECONDS = 5


class _Server(uvicorn.Server):
    """uvicorn waits for open responses before it shuts the application down, so the streams must hear of it first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._streams = app.state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a signal handler's signature
        """A signal came. uvicorn's own handler would raise it again after the shutdown, and so skip the caller's."""
        self._streams.closing.set()
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(settings: Settings, log_level: str = "warning") -> None:
    """Migrate the database, then serve on the settings' host and port; returns after SIGINT or SIGTERM."""
    migrate.upgrade(settings.url)
    app = create_app(settings)
    config = uvicorn.Config(
        app, settings.host, settings.port, log_level=log_level, timeout_graceful_shutdown=_GRACE_SECONDS
    )
    _Server(config, app).run()
