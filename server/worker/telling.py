"""What a training tells of itself, on its way into the run's record: often enough to be watched, never in its way."""

from collections.abc import Callable, Sequence
from pathlib import Path

from server import metrics
from server.clock import Clock, utc_now
from server.ledger import RunLedger
from server.runs import MetricPoint, StageRecord, WorkState
from server.series import Pace
from server.worker.tensorboard import Board
from trainer.stage import Outcome

_PROGRESS_SECONDS = 0.5


class Telling:
    """Hears the stages of one run; `report` and `finished` are what `trainer.pipeline.run` calls."""

    def __init__(
        self,
        stages: Sequence[StageRecord],
        ledger: RunLedger,
        boards: Path,
        clock: Clock = utc_now,
        pace: Pace | None = None,
    ) -> None:
        self._records = list(stages)
        self._ledger, self._clock, self._boards = ledger, clock, Board.beside(boards)
        self._pace, self._progress = pace or Pace(), Pace(_PROGRESS_SECONDS)
        self._unwritten: Callable[[], None] | None = None
        for position, record in enumerate(self._records):
            ledger.stage(position, record)

    def report(self, index: int, done: int, total: int, told: dict[str, float]) -> None:
        """A stage told where it is; what comes too fast after the last is kept back, and its last word is not."""
        if self._records[index].state is WorkState.QUEUED:
            self._update(index, {"state": WorkState.RUNNING})
            self._ledger.reached(index, done)
        message = self._message(index, told)
        if told:
            point = MetricPoint(tokens=done, at=self._clock(), values=metrics.finite(told))
            self._unwritten = lambda: self._write(index, point, message, total)
            if done == total or self._pace.due(frozenset(told)):
                self.flush()
                return
        if self._progress.due():
            self._ledger.progress(message, done, total)

    def finished(self, index: int, outcome: Outcome) -> None:
        """A stage ended, in this process or before."""
        self.flush()
        self._ledger.reached(index + 1, 0)
        self._update(
            index,
            {
                "state": WorkState.SUCCEEDED,
                "before": outcome.before,
                "after": outcome.after,
                "seconds": outcome.seconds,
                **{name: str(path) for name, path in outcome.files().items()},
            },
        )

    def flush(self) -> None:
        """Write what was kept back."""
        if self._unwritten is not None:
            self._unwritten()
            self._unwritten = None

    def _write(self, index: int, point: MetricPoint, message: str, total: int) -> None:
        self._ledger.trained(index, point, message, total)
        if self._boards is not None:
            self._boards.add(f"{index:02d}-{self._records[index].name}", point)

    def _message(self, index: int, told: dict[str, float]) -> str:
        parts = [f"stage {index + 1} of {len(self._records)}: {self._records[index].name}"]
        if "loss" in told:
            parts.append(f"loss {told['loss']:.3f}")
        if "tokens_per_second" in told:
            parts.append(f"{told['tokens_per_second']:,.0f} tokens/s")
        return ", ".join(parts)

    def _update(self, index: int, changes: dict[str, object]) -> None:
        self._records[index] = self._records[index].model_copy(update=changes)
        self._ledger.stage(index, self._records[index])
