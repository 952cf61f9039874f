"""The same metrics as TensorBoard's event files, where TensorBoard is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from server.runs import MetricPoint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Event files under one directory, a run of TensorBoard's for each stage; the step is the number of tokens."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stage, self._tokens = "", 0
        self._writer: SummaryWriter | None = None

    @classmethod
    def beside(cls, directory: Path) -> "Board | None":
        """A Board, or None where TensorBoard is not installed."""
        return None if find_spec("tensorboard") is None else cls(directory)

    def add(self, stage: str, point: MetricPoint) -> None:
        """Write a point. Where a stage goes on or goes back, what was written of later steps is purged."""
        if self._writer is None or stage != self._stage or point.tokens < self._tokens:
            self._writer = self._open(stage, point.tokens)
        self._stage, self._tokens = stage, point.tokens
        for name, value in point.values.items():
            self._writer.add_scalar(name, float("nan") if value is None else value, point.tokens, point.at.timestamp())
        self._writer.flush()

    def _open(self, stage: str, tokens: int) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        return SummaryWriter(str(self._directory / stage), purge_step=tokens)
