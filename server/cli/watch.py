"""Progress bars over searches and runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.api.views import RunView, SearchView
from server.cli.show import console
from server.client import Client

_LINE_SECONDS = 10.0


class Bars:
    """A bar that moves as the server tells; where nobody can see it move, a line now and then."""

    def __init__(self, whole: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._whole = self._progress.add_task(whole, total=None)
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def search(self, view: SearchView) -> None:
        """A search moved."""
        done = view.counts.done + view.counts.failed
        text = f"{view.name}: {view.progress.message or view.state}"
        self._move(text, done, view.spec.effort.candidates)

    def run(self, view: RunView) -> None:
        """A run moved."""
        progress = view.progress
        self._move(f"{view.name}: {progress.message or view.state}", progress.done, progress.total or None)

    def _move(self, text: str, done: int, total: int | None) -> None:
        self._progress.update(self._whole, description=escape(text), completed=done, total=total)
        if not console.is_terminal and time.monotonic() >= self._next_line:
            console.print(f"{text} ({done} of {total or '?'})", markup=False, highlight=False, soft_wrap=True)
            self._next_line = time.monotonic() + _LINE_SECONDS


def follow_search(client: Client, search: str, meanwhile: Callable[[], None] | None = None) -> SearchView:
    """Show a search until it ends, or until `meanwhile`, which is called all along, raises."""
    with Bars("search") as bars:
        return client.wait_for_search(search, bars.search, meanwhile)


def follow_run(client: Client, run: str, meanwhile: Callable[[], None] | None = None) -> RunView:
    """Show a run until it ends, or until `meanwhile`, which is called all along, raises."""
    with Bars("run") as bars:
        return client.wait_for_run(run, bars.run, meanwhile)


@contextmanager
def on_leaving(farewell: str) -> Iterator[None]:
    """Ctrl-C ends the watching alone; says so, and ends the command."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(farewell, markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
