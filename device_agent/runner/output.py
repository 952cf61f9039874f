"""What a runner answers: one JSON object a line.

    {"event": "loaded", "load_ns": 1, "baseline_bytes": 1}
    {"event": "repetition", "prefill_ns": 1, "decode_ns": [1, ...]}             mode measure, once per repetition
    {"event": "prefilled", "ns": 1}                                             mode generate, once
    {"event": "token", "token": 1, "logit": 0.0, "runner_up": 2, "runner_up_logit": 0.0, "ns": 1}
    {"event": "logits", "ns": 1, "values": [0.0, ...]}                          mode golden, once per feed
    {"event": "done", "peak_bytes": 1}
    {"event": "error", "slug": "out-of-memory", "message": "..."}               instead of done

Lines that are no JSON object (a library's log) are passed over; what is missing at the end is an error.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from device_agent.contracts import Blame, Block, Fault, FulcrumError, TokenStep


class RunnerFailed(FulcrumError):
    """The runner ended without its `done`, or said why it could not go on.

    It tells of the Program, never of the phone: one that is too large must not send a healthy phone into quarantine.
    """

    blame = Blame.US
    slug = "runner-failed"

    def __init__(self, message: str, *, slug: str = "runner-failed", advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.slug = slug

    def as_fault(self) -> Fault:
        """The error as a wire value, under the slug that the runner gave."""
        return Fault(blame=self.blame, slug=self.slug, message=self.message, advice=self.advice)


_ADVICE = {
    "out-of-memory": "The Program does not fit on this phone: tighten the memory budget or the context length.",
    "program-refused": "The Program and the runner may be of different ExecuTorch versions: rebuild the runner.",
}


def _events(lines: Iterable[str]) -> list[dict[str, Any]]:
    events = []
    for line in lines:
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.append(event)
    for event in events:
        if event["event"] == "error":
            slug = str(event.get("slug", "runner-failed"))
            raise RunnerFailed(str(event.get("message", slug)), slug=slug, advice=_ADVICE.get(slug, ""))
    if not events or events[-1]["event"] != "done":
        raise RunnerFailed("The runner ended before it was done.", slug="runner-crashed")
    return events


def _one(events: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [event for event in events if event["event"] == kind]
    if len(found) != 1:
        raise RunnerFailed(f"The runner said {kind!r} {len(found)} times, not once.")
    return found[0]


def parse_measure(lines: Iterable[str]) -> Block:
    """The raw samples of one process.

    Raises:
        RunnerFailed: the runner crashed, refused the Program, ran out of memory, or its answer is incomplete.
    """
    events = _events(lines)
    loaded, done = _one(events, "loaded"), _one(events, "done")
    repetitions = [event for event in events if event["event"] == "repetition"]
    if not repetitions:
        raise RunnerFailed("The runner reported no repetition.")
    return Block(
        load_ns=loaded["load_ns"],
        baseline_bytes=loaded["baseline_bytes"],
        prefill_ns=tuple(event["prefill_ns"] for event in repetitions),
        decode_ns=tuple(tuple(event["decode_ns"]) for event in repetitions),
        peak_bytes=done["peak_bytes"],
    )


def parse_generate(lines: Iterable[str]) -> tuple[int, tuple[TokenStep, ...]]:
    """(prefill ns, one step per token).

    Raises:
        RunnerFailed: as `parse_measure`.
    """
    events = _events(lines)
    steps = [
        TokenStep.model_validate({name: value for name, value in event.items() if name != "event"})
        for event in events
        if event["event"] == "token"
    ]
    return _one(events, "prefilled")["ns"], tuple(steps)


class GoldenRun(NamedTuple):
    """What a process in mode golden told: per feed its nanoseconds and its logits [vocab], all repetitions in a row."""

    load_ns: int
    baseline_bytes: int
    feed_ns: list[int]
    logits: list[list[float]]
    peak_bytes: int


def parse_golden(lines: Iterable[str]) -> GoldenRun:
    """A logit that is no number (JSON has none such, so null stands for it) comes back as NaN.

    Raises:
        RunnerFailed: as `parse_measure`.
    """
    events = _events(lines)
    loaded, done = _one(events, "loaded"), _one(events, "done")
    feeds = [event for event in events if event["event"] == "logits"]
    try:
        return GoldenRun(
            load_ns=int(loaded["load_ns"]),
            baseline_bytes=int(loaded["baseline_bytes"]),
            feed_ns=[int(event["ns"]) for event in feeds],
            logits=[[math.nan if v is None else float(v) for v in event["values"]] for event in feeds],
            peak_bytes=int(done["peak_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunnerFailed(f"The runner's answer is malformed: {type(error).__name__} {error}.") from None
