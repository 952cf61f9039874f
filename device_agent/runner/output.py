"""What a runner answers: one JSON object a line.

    {"event": "loaded", "load_ns": 1, "baseline_bytes": 1}
    {"event": "first", "prefill_ns": 1}                                         the first run of the warm-up, if any
    {"event": "repetition", "prefill_ns": 1, "decode_ns": [1, ...]}             mode measure, once per repetition
    {"event": "filled", "workload": 1, "ns": 1}                                 further workloads, from 1: the depth
    {"event": "repetition", "workload": 1, "prefill_ns": 1}                     ... prompts only
    {"event": "repetition", "workload": 2, "decode_ns": [1, ...], "token": 1}   ... tokens at a depth; the last one
    {"event": "saved", "workload": 3, "bytes": 1, "ns": 1}                      ... a prefix: its snapshot, once
    {"event": "repetition", "workload": 3, "prefill_ns": 1, "restored_ns": 1, "restore_ns": 1}
    {"event": "memory", "when": "loaded", "status": "...", "smaps_rollup": "..."}    memory pass; also "empty", "steady"
    {"event": "sampled", "peak_bytes": 1, "samples": 1}                         memory pass: highest RSS + swap
    {"event": "evicted", "resident": 0.0}                                       mode load: what stayed in memory
    {"event": "stage", "index": 0, "prefill_ns": [1, ...], "decode_ns": [1, ...]}    mode stages
    {"event": "prefix", "restored": 1, "restore_ns": 1, "kept_bytes": 1, "note": ""}    mode generate with a prefix
    {"event": "prefilled", "ns": 1}                                             mode generate, once
    {"event": "token", "token": 1, "logit": 0.0, "runner_up": 2, "runner_up_logit": 0.0, "ns": 1}
    {"event": "logits", "ns": 1, "values": [0.0, ...]}                          mode golden, once per feed
    {"event": "done", "peak_bytes": 1, "cpu_ns": 1}
    {"event": "error", "slug": "out-of-memory", "message": "..."}               instead of done

Before the runner's own lines the shell that starts it says {"event": "placed", "cpus_allowed": "3ff"}. Lines that are
no JSON object (a library's log) are passed over; what is missing at the end is an error.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from device_agent import android
from device_agent.contracts import (
    Blame,
    Block,
    ColdLoad,
    Fault,
    FulcrumError,
    MemoryMap,
    PrefixUse,
    Samples,
    StageTimes,
    TokenStep,
    Workload,
)


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
    "snapshot-refused": "Free storage on the phone, or take shorter prefixes.",
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


def _maybe(events: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next((event for event in events if event["event"] == kind), {})


def parse_measure(lines: Iterable[str], further: Sequence[Workload] = ()) -> Block:
    """The raw samples of one process; `further` are the workloads that the plan had beside the main one.

    Raises:
        RunnerFailed: the runner crashed, refused the Program, ran out of memory, or its answer is incomplete.
    """
    events = _events(lines)
    loaded, done = _one(events, "loaded"), _one(events, "done")
    if not _repetitions(events, 0):
        raise RunnerFailed("The runner reported no repetition.")
    sampled, memory = _maybe(events, "sampled"), {e["when"]: e for e in events if e["event"] == "memory"}
    try:
        return Block(
            load_ns=loaded["load_ns"],
            baseline_bytes=loaded["baseline_bytes"],
            first_prefill_ns=_maybe(events, "first").get("prefill_ns"),
            prefill_ns=tuple(event["prefill_ns"] for event in _repetitions(events, 0)),
            decode_ns=tuple(tuple(event["decode_ns"]) for event in _repetitions(events, 0)),
            further=tuple(_samples(events, number, workload) for number, workload in enumerate(further, start=1)),
            peak_bytes=done["peak_bytes"],
            cpu_ns=done.get("cpu_ns"),
            sampled_peak_bytes=sampled.get("peak_bytes"),
            memory_samples=sampled.get("samples", 0),
            loaded=_memory(memory.get("loaded")),
            steady=_memory(memory.get("steady")),
            cpus_allowed=_maybe(events, "placed").get("cpus_allowed"),
        )
    except (KeyError, TypeError, StopIteration, ValidationError) as error:
        raise RunnerFailed(f"The runner's answer is not of its contract: {error!r}.") from None


def _repetitions(events: list[dict[str, Any]], workload: int) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "repetition" and event.get("workload", 0) == workload]


def _samples(events: list[dict[str, Any]], number: int, workload: Workload) -> Samples:
    repetitions = _repetitions(events, number)
    if not repetitions:
        raise RunnerFailed(f"The runner reported no repetition of {workload.label}.")
    filled = [event["ns"] for event in events if event["event"] == "filled" and event["workload"] == number]
    if workload.kind == "prefill":
        return Samples(workload=workload, prefill_ns=tuple(event["prefill_ns"] for event in repetitions))
    if workload.kind == "prefix":
        saved = next(event for event in events if event["event"] == "saved" and event["workload"] == number)
        return Samples(
            workload=workload,
            prefill_ns=tuple(event["prefill_ns"] for event in repetitions),
            restored_ns=tuple(event["restored_ns"] for event in repetitions),
            restore_ns=tuple(event["restore_ns"] for event in repetitions),
            snapshot_bytes=saved["bytes"],
            snapshot_ns=saved["ns"],
        )
    decode = tuple(tuple(event["decode_ns"]) for event in repetitions)
    return Samples(workload=workload, fill_ns=filled[0] if filled else None, decode_ns=decode)


def _memory(event: dict[str, Any] | None) -> MemoryMap | None:
    if event is None:
        return None
    status, rollup = android.status(event["status"]), android.smaps_rollup(event["smaps_rollup"])
    return MemoryMap(
        rss_bytes=status.get("VmRSS"),
        file_bytes=status.get("RssFile"),
        swap_bytes=status.get("VmSwap"),
        pss_bytes=rollup.get("Pss"),
        private_dirty_bytes=rollup.get("Private_Dirty"),
    )


def parse_cold_load(lines: Iterable[str]) -> ColdLoad:
    """A load after eviction. Raises RunnerFailed as `parse_measure`."""
    events = _events(lines)
    return ColdLoad(load_ns=_one(events, "loaded")["load_ns"], resident=_one(events, "evicted")["resident"])


def parse_stages(lines: Iterable[str], names: Sequence[str]) -> tuple[StageTimes, ...]:
    """The times of each stage of the Program. Raises RunnerFailed as `parse_measure`."""
    found = {event["index"]: event for event in _events(lines) if event["event"] == "stage"}
    if sorted(found) != list(range(len(names))):
        raise RunnerFailed(f"The runner timed {len(found)} stages of {len(names)}.")
    return tuple(
        StageTimes(stage=name, prefill_ns=tuple(found[i]["prefill_ns"]), decode_ns=tuple(found[i]["decode_ns"]))
        for i, name in enumerate(names)
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


def parse_prefix(lines: Iterable[str]) -> PrefixUse | None:
    """What a snapshot did in mode generate; None where the plan named no prefix. Raises RunnerFailed as above."""
    event = _maybe(_events(lines), "prefix")
    try:
        return PrefixUse.model_validate({k: v for k, v in event.items() if k != "event"}) if event else None
    except ValidationError as error:
        raise RunnerFailed(f"The runner's answer is not of its contract: {error!r}.") from None


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
