"""Progress bars over searches and runs."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.api.views import RunView, SearchView
from server.cli.show import console
from server.client import Client


class Bars:
    """One bar for the whole, one for the step at hand; they move as the server tells."""

    def __init__(self, whole: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._whole = self._progress.add_task(whole, total=None)

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
        self._progress.update(self._whole, description=text, completed=done, total=view.spec.effort.candidates)

    def run(self, view: RunView) -> None:
        """A run moved."""
        progress = view.progress
        text = f"{view.name}: {progress.message or view.state}"
        self._progress.update(self._whole, description=text, completed=progress.done, total=progress.total or None)


def follow_search(client: Client, search: str) -> SearchView:
    """Show a search until it ends."""
    with Bars("search") as bars:
        return client.wait_for_search(search, bars.search)


def follow_run(client: Client, run: str) -> RunView:
    """Show a run until it ends."""
    with Bars("run") as bars:
        return client.wait_for_run(run, bars.run)
