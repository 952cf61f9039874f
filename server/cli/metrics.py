"""A run's metrics in a terminal: last values and their curves, and all of it as CSV."""

import csv
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TextIO

from rich.markup import escape

from device_agent.contracts import Blame, FulcrumError
from server.api.views import StageMetrics
from server.cli.show import console, new_table, number
from server.headlines import KINDS

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 32


class NoSuchStage(FulcrumError):
    """A stage that the run does not have."""

    blame, slug = Blame.USER, "no-such-stage"


def chosen(series: Sequence[StageMetrics], stage: str | None) -> list[StageMetrics]:
    """The stages of this position or this name; all of them without one.

    Raises:
        NoSuchStage: there is none.
    """
    found = [each for each in series if stage in (None, each.name, str(each.position))]
    if not found and stage is not None:
        known = ", ".join(f"{each.position} {each.name}" for each in series)
        raise NoSuchStage(f"The run has no stage {stage}.", advice=f"Its stages: {known}.")
    return found


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """The course of the values, averaged into at most `width` bars between their least and their greatest."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((mean - low) / step)] for mean in means)


def table(series: StageMetrics) -> None:
    """Every metric of a stage: its first, least, greatest and last value, and its curve."""
    counted = KINDS[series.name].counted
    last = f"{series.points[-1].tokens:,} {counted}" if series.points else "nothing yet"
    title = f"Stage {series.position}, {series.name}: {last}"
    shown = new_table(title, "metric", ">first", ">least", ">greatest", ">last", f"over the {counted}")
    for name in _names(series):
        told = [point.values[name] for point in series.points if name in point.values]
        values = [value for value in told if value is not None]
        figures = [number(value) for value in (values[0], min(values), max(values))] if values else ["", "", ""]
        end = "not finite" if told[-1] is None else number(told[-1])
        shown.add_row(escape(name), *figures, end, sparkline(values))
    console.print(shown)


def latest(series: Sequence[StageMetrics]) -> StageMetrics | None:
    """The stage that told something last."""
    return next((each for each in reversed(series) if each.points), None)


def as_csv(series: Sequence[StageMetrics], file: TextIO) -> None:
    """A line a point; empty where a point does not tell of a metric, nan where it was no finite number."""
    names = list(dict.fromkeys(name for each in series for name in _names(each)))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["stage", "name", "tokens", "at", *names])
    for each in series:
        for point in each.points:
            cells = [point.values.get(name, "") for name in names]
            told = ["nan" if cell is None else cell for cell in cells]
            writer.writerow([each.position, each.name, point.tokens, point.at.isoformat(), *told])


def _names(series: StageMetrics) -> list[str]:
    return sorted({name for point in series.points for name in point.values})
