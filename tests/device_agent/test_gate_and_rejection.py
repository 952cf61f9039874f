"""Gates, rejection and placement: pure functions over readings."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from test_protocol import MS, block

from device_agent.android import Cluster
from device_agent.clock import Clock
from device_agent.condition import Reading, Ticks
from device_agent.contracts import Block, Condition, Gates, Limits, Protocol, Samples, Workload
from device_agent.gate import findings, pass_gate
from device_agent.placement import CoresUnknown, place
from device_agent.rejection import breaches, cores_of, foreign_cpu

NOW = datetime(2026, 1, 2, tzinfo=UTC)
GOOD = Condition(
    taken_at=NOW,
    battery_percent=80,
    battery_celsius=30.0,
    temperatures_celsius={"SKIN": 31.0},
    frequency_cap={"policy0": 1.0, "policy9": 1.0},
    load_1min=0.5,
    memory_available_bytes=4 * 2**30,
)
STRICT = Gates(load_per_core=0.3, memory_available_bytes=2**30, wait_seconds=60, poll_seconds=7)
S24 = {  # as a Galaxy S24 with an Exynos 2400 names them
    "policy0": Cluster(1_959_000, 1_959_000, (0, 1, 2, 3)),
    "policy4": Cluster(2_592_000, 2_592_000, (4, 5, 6)),
    "policy7": Cluster(2_900_000, 2_900_000, (7, 8)),
    "policy9": Cluster(1_824_000, 3_207_000, (9,)),
}


def unmet(condition: Condition, gates: Gates = STRICT) -> list[str]:
    return [what for what, met in findings(gates, condition, 8) if met is False]


def test_a_good_phone_passes_at_once() -> None:
    assert unmet(GOOD) == []
    assert [what for what, met in findings(STRICT, GOOD, 8) if met is None] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"battery_celsius": 38.6}, "battery at 38.6 C, at most 35 C"),
        ({"temperatures_celsius": {"SKIN": 40.0}}, "SKIN at 40 C, at most 36 C"),
        ({"frequency_cap": {"policy0": 1.0, "policy9": 0.57}}, "capped clocks: policy9 at 57%"),
        ({"load_1min": 4.0}, "load per core at 0.5, at most 0.3"),
        ({"battery_percent": 10}, "battery at 10 %, at least 20 %"),
        ({"memory_available_bytes": 1}, "available memory at 1 bytes, at least 1073741824 bytes"),
    ],
)
def test_each_gate_says_what_it_misses(change: Mapping[str, object], words: str) -> None:
    assert unmet(GOOD.model_copy(update=change)) == [words]


def test_what_cannot_be_read_is_neither_met_nor_waited_for() -> None:
    nothing = Condition(taken_at=NOW)
    assert unmet(nothing) == []
    assert len([what for what, met in findings(STRICT, nothing, None) if met is None]) == 6
    gate, _ = wait(nothing)
    assert (gate.waited_seconds, gate.timed_out, len(gate.unknown)) == (0, False, 6)


def wait(*conditions: Condition, gates: Gates = STRICT):
    """Pass a gate that sees these, the last for ever, on a clock that only waiting moves."""
    time = [0.0]
    later = iter([*conditions[1:]])
    last = [conditions[0]]

    def read() -> Reading:
        last[0] = next(later, last[0])
        return Reading(last[0])

    def pause(seconds: float) -> None:
        time[0] += seconds

    clock = Clock(lambda: time[0], pause, lambda: NOW)
    return pass_gate(gates, Reading(conditions[0]), read, pause, clock, 8)


def test_a_gate_waits_until_it_is_met() -> None:
    hot = GOOD.model_copy(update={"battery_celsius": 38.0})
    gate, reading = wait(hot, hot, GOOD)
    assert (gate.waited_seconds, gate.timed_out) == (14, False)
    assert reading.condition == GOOD


def test_a_gate_is_bounded_and_says_that_it_timed_out() -> None:
    hot = GOOD.model_copy(update={"battery_celsius": 38.0})
    gate, _ = wait(hot)
    assert gate.waited_seconds == 60
    assert gate.timed_out
    assert gate.unmet == ("battery at 38 C, at most 35 C",)
    gate, _ = wait(hot, gates=STRICT.model_copy(update={"wait_seconds": 0}))
    assert (gate.waited_seconds, gate.timed_out) == (0, True)


def reasons(judged: Block, limits: Limits | None = None) -> list[str]:
    return [breach.reason for breach in breaches(limits or Limits(), judged)]


def between(before: Condition, after: Condition, **more: object) -> Block:
    return block(2.0, before=before, after=after, **more)


def test_a_quiet_block_counts() -> None:
    assert reasons(between(GOOD, GOOD, foreign_cpu=0.05)) == []
    assert reasons(block(2.0)) == []


def test_a_block_is_rejected_for_a_stated_reason() -> None:
    capped = GOOD.model_copy(update={"frequency_cap": {"policy0": 1.0, "policy9": 0.57}})
    warm = GOOD.model_copy(update={"temperatures_celsius": {"SKIN": 34.5}})
    assert reasons(between(GOOD, capped)) == ["frequency-cap"]
    assert reasons(between(capped, capped)) == []  # it did not drop during the block; the gate speaks of it
    assert reasons(between(GOOD, warm)) == ["heated"]
    assert reasons(between(GOOD, GOOD, foreign_cpu=0.2)) == ["foreign-cpu"]
    drifting = block(2.0, decode_ns=tuple((round(ms * MS),) * 4 for ms in (2.0, 2.0, 2.05, 2.2, 2.2)))
    assert reasons(drifting) == ["drift"]
    uneven = block(2.0, decode_ns=tuple((round(ms * MS),) * 4 for ms in (2.0, 4.0, 2.0, 2.0, 2.0)))
    assert reasons(uneven) == ["spread"]
    spiked = block(2.0, decode_ns=((2 * MS, 2 * MS, 2 * MS, 20 * MS),) * 5)
    assert reasons(spiked) == []  # single tokens are what p95 and p99 are for
    off = Limits(frequency_cap=False, skin_rise_celsius=None, drift=None, spread=None, foreign_cpu=None)
    assert reasons(between(GOOD, capped, foreign_cpu=1.0, decode_ns=uneven.decode_ns), off) == []


def test_every_workload_is_judged() -> None:
    workload = Workload(kind="prefill", prefill_tokens=512)
    prompts = Samples(workload=workload, prefill_ns=(10, 10, 10, 20, 20, 20))
    assert reasons(block(2.0, further=(prompts,))) == ["drift", "spread"]


def test_foreign_work_is_what_the_cores_did_beside_us() -> None:
    start, end = Ticks(100.0, {0: 0, 1: 1000}), Ticks(110.0, {0: 900, 1: 1500})
    assert foreign_cpu(start, end, 9_000_000_000, "1") == 0.0  # core 0: 9 s busy, all of it ours
    assert foreign_cpu(start, end, 9_000_000_000, "3") == pytest.approx(0.25)  # 14 s busy of 20, 9 s ours
    assert foreign_cpu(start, end, 9_000_000_000, None) == pytest.approx(0.25)
    assert foreign_cpu(None, end, 1, "1") is None
    assert foreign_cpu(start, end, None, "1") is None
    assert foreign_cpu(start, Ticks(100.5, {0: 50, 1: 1050}), 1, "1") is None  # too short to tell
    assert foreign_cpu(start, end, 1, "f0") is None  # cores that /proc/stat does not have
    assert cores_of("ff,00000001") == {0, *range(32, 40)}


@pytest.mark.parametrize(
    ("cores", "expected", "mask", "threads"),
    [
        ("big", (9,), "200", 1),
        ("big+mid", (4, 5, 6, 7, 8, 9), "3f0", 6),
        ("all", tuple(range(10)), "3ff", 10),
        ((0, 9), (0, 9), "201", 2),
    ],
)
def test_masks_follow_the_clusters(cores: str, expected: tuple[int, ...], mask: str, threads: int) -> None:
    protocol = Protocol.model_validate({"cores": cores, "threads": None})
    found = place(protocol, S24, {9: "Cortex-X4", 4: "Cortex-A720"})
    assert found is not None
    assert (found.cores, found.mask, found.threads) == (expected, mask, threads)
    assert ("Cortex-X4" in found.kinds) == (9 in expected)


def test_with_two_speeds_the_middle_is_the_big() -> None:
    two = {"policy0": Cluster(1, 1, (0, 1)), "policy2": Cluster(2, 2, (2, 3))}
    found = place(Protocol.model_validate({"cores": "big+mid", "threads": 1}), two, {})
    assert found is not None
    assert (found.cores, found.threads) == ((2, 3), 1)


def test_no_core_is_guessed() -> None:
    assert place(Protocol(), {}, {}) is None
    with pytest.raises(CoresUnknown):
        place(Protocol.model_validate({"cores": "big"}), {}, {})
    with pytest.raises(CoresUnknown, match="no core 12"):
        place(Protocol.model_validate({"cores": [9, 12]}), S24, {})
