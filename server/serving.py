"""Serve the application until a signal comes, and end its live streams then."""

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server import migrate
from server.api.app import create_app
from server.errors import AddressTaken
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


def listen(host: str, port: int) -> socket.socket:
    """Take the address before anything else is done: whoever cannot have it has changed nothing.

    Raises:
        AddressTaken: someone listens there, or the address is none of this host's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise AddressTaken(
            f"{host}:{port} cannot be served on: {error.strerror}",
            advice="End what listens there, or choose another --port (FULCRUM_PORT) or --host.",
        ) from error
    return listener


def serve(settings: Settings, listener: socket.socket | None = None) -> None:
    """Migrate the database, then serve on `listener`, or on the settings' host and port, until SIGINT or SIGTERM.

    Raises:
        AddressTaken: as `listen`.
        DatabaseUnusable: as `server.migrate.upgrade`.
    """
    listener = listener or listen(settings.host, settings.port)
    migrate.upgrade(settings.url)
    until_signal(create_app(settings), listener)


def until_signal(app: FastAPI, listener: socket.socket) -> None:
    """Serve `app` until SIGINT or SIGTERM, and then set `app.state.closing`."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)
    _Server(config, app).run(sockets=[listener])
