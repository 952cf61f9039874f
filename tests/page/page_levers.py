"""A run through the levers, with stages of reinforcement learning on few levels and on many."""

import hashlib
import math
from datetime import UTC, datetime

from page_story import OWNER, Story

from server import metrics
from server.ledger import RunLedger
from server.runs import MetricPoint, StageRecord, WorkState

PROMPTS = hashlib.sha256(b"{}").hexdigest()
ASKED = ("pretrain", "extend", "pretrain", "preference", "rl", "rl", "rl", "ptq")  # the third made examples
EXAMINER = [{"rule": "number"}, {"rule": "repetition"}]
MADE, PRACTISED, OFTEN, SELDOM = 2, 4, 5, 6
SYNTHESISED = {
    "seeds": 1_000.0,
    "examples": 2_208.0,
    "yield": 0.552,
    "tutor/tokens": 81_000.0,
    "removed/verifier answer": 0.3,
    "removed/near duplicates of the question & <b>answer</b>": 0.2,
    "removed/decontamination": 0.0143,
}


LEVELS = (
    "add-1",
    "sum-1",
    "sum-2",
    "terms-3",
    "steps-4",
    *(f"chain sums of {n} terms with brackets & <b>fractions</b>, as the competition asks them" for n in range(5, 30)),
)


def _stage(name: str, seconds: float, before: dict[str, float], after: dict[str, float]) -> StageRecord:
    return StageRecord(name=name, state=WorkState.SUCCEEDED, before=before, after=after, seconds=seconds)


def _solved(levels: int, gain: float) -> dict[str, float]:
    found = {f"success/{name}": max(0.0, 0.6 - 0.15 * at + gain / (1 + at)) for at, name in enumerate(LEVELS[:levels])}
    return {"success": sum(found.values()) / levels} | found


PULLED = (
    _stage("pretrain", 141.0, {"bits_per_byte": 8.05}, {"bits_per_byte": 2.02}),
    _stage(
        "extend",
        88.0,
        {"bits_per_byte": 2.02, "bits_per_byte/long": 3.81, "recall/words": 0.1},
        {"bits_per_byte": 2.03, "bits_per_byte/long": 2.44, "recall/words": 0.4, "memory_bytes": 1.2e9},
    ),
    _stage("synthesise", 12.0, {}, SYNTHESISED),
    _stage(
        "preference",
        61.0,
        {"bits_per_byte": 2.03, "win_rate": 0.5, "examiner_score": 0.4},
        {"bits_per_byte": 2.03, "win_rate": 0.4375, "examiner_score": 0.38, "pairs": 120.0, "judge/agreement": 0.9},
    ),
    StageRecord(name="rl", state=WorkState.RUNNING),
    _stage("rl", 60.0, _solved(30, 0.0) | {"bits_per_byte": 2.03}, _solved(30, 0.2) | {"bits_per_byte": 2.11}),
    _stage("rl", 60.0, _solved(2, 0.0) | {"bits_per_byte": 2.11}, _solved(2, 0.0) | {"bits_per_byte": 2.11}),
    StageRecord(name="ptq"),
)


def practised(step: int, levels: int) -> MetricPoint:
    """What a step of reinforcement learning tells, as its model climbs `levels`."""
    reached = min(levels - 1, step * levels // 120)
    values: dict[str, float | None] = {"success": 0.3 + step / 300, "reward": 0.3 + step / 300, "mismatch": 1e-4}
    names = LEVELS[:levels]
    weights = [0.0 if at > reached + 1 else 0.2 if at > reached else 1.0 / (1 + reached - at) for at in range(levels)]
    for at, name in enumerate(names):
        if at <= reached + 1 and (step + at) % 3:  # a step draws few problems
            since = step - at * 120 / levels
            values[f"success/{name}"] = max(0.0, min(1.0, 0.2 + since / 60 + 0.15 * math.sin(step * (at + 2))))
    values["level"] = float(reached)
    values |= {f"share/{name}": weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
    return MetricPoint(tokens=step * 6_144, at=datetime.now(UTC), values=values)


def pull_levers(story: Story) -> str:
    """A run that went through every lever but the last, which waits; its reinforcement learning goes on."""
    story.call("PUT", f"/v1/artifacts/{PROMPTS}", content=b"{}")
    judged = {"prompts": PROMPTS, "judge": [{"rule": "exact"}], "examiner": EXAMINER}
    asked = [{"name": name, "options": judged if name == "preference" else {}} for name in ASKED]
    body = {"search": story.search, "candidate": 6, "name": "all levers", "stages": asked}
    run = str(story.call("POST", "/v1/runs", json=body).json()["id"])
    assert story.services.claims.claim_run(OWNER) is not None
    story.training = ledger = RunLedger(story.services.database, run, OWNER)
    for position, record in enumerate(PULLED):
        ledger.stage(position, record)
    with story.services.database.write() as session:
        made = MetricPoint(tokens=1_000, at=datetime.now(UTC), values=dict(SYNTHESISED))
        metrics.note(session, run, MADE, made)
        for step in range(1, 101):
            metrics.note(session, run, PRACTISED, practised(step, 5))
            metrics.note(session, run, OFTEN, practised(step, 30))
            metrics.note(session, run, SELDOM, practised(step, 2))
    return run


def practise(story: Story, step: int) -> None:
    """Its reinforcement learning goes on."""
    assert story.training is not None
    story.training.trained(PRACTISED, practised(step, 5), "practising", 200 * 6_144)
