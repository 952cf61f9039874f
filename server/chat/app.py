"""The application factory of `fulcrum chat serve`."""

from dataclasses import dataclass

from fastapi import FastAPI

from server.api.security import Guard
from server.chat import api, problems
from server.chat.desk import Desk
from server.settings import Settings


@dataclass(frozen=True)
class _Bell:
    """What `server.serving` sets when a signal comes."""

    desk: Desk

    def set(self) -> None:
        """End what is unanswered, so that open streams end."""
        self.desk.close()


def create_chat_app(desk: Desk, settings: Settings) -> FastAPI:
    """OpenAI's interface to a model whose engine is serving, behind the same guard as Fulcrum's own."""
    app = FastAPI(title="Fulcrum chat", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.desk = desk
    app.state.closing = _Bell(desk)
    problems.install(app)
    app.include_router(api.router)
    app.add_middleware(Guard, settings=settings, refused=problems.answer_of)
    return app
