"""A Protocol as data: presets, old specs, what fits; and what a Profile makes of a Measurement."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from device_agent.contracts import (
    Block,
    Breach,
    ColdLoad,
    Condition,
    Figure,
    Gate,
    Measurement,
    MemoryMap,
    Placement,
    Profile,
    Protocol,
    Ratio,
    Samples,
    SettingChange,
    Transfer,
    Workload,
    abba,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MS = 1_000_000


def block(decode_ms: float, *, ttft_ms: float = 10.0, **more: object) -> Block:
    plain = Block(
        load_ns=MS,
        prefill_ns=(int(ttft_ms * MS),) * 5,
        decode_ns=((int(decode_ms * MS),) * 4,) * 5,
        baseline_bytes=100,
        peak_bytes=400,
    )
    return plain.model_copy(update=more)


def measurement(*blocks: Block, **more: object) -> Measurement:
    plain = Measurement(
        program="0" * 64,
        serial="one",
        virtual=False,
        runner="test",
        protocol=Protocol(),
        before=Condition(taken_at=NOW),
        after=Condition(taken_at=NOW),
        blocks=blocks,
        memory=blocks[0],
        transfer=Transfer(pushed_bytes=0, pushed_files=0, kept_files=1, seconds=0.1),
        run_seconds=1.0,
    )
    return plain.model_copy(update=more)


def test_a_spec_of_old_is_read() -> None:
    old = {"prefill_tokens": 64, "decode_tokens": 8, "warmup": 0, "repetitions": 2, "blocks": 2, "threads": 4}
    protocol = Protocol.model_validate(old)
    assert {name: getattr(protocol, name) for name in old} == old
    assert protocol.limits.reruns == 0
    assert protocol.further(512) == ()


def test_presets_have_names_and_may_be_varied() -> None:
    for name in ("quick", "standard", "publication"):
        protocol = Protocol.model_validate_json(json.dumps({"preset": name}))
        assert protocol.name == name
        assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol
    assert Protocol() == Protocol.preset("quick")
    varied = Protocol.model_validate({"preset": "standard", "blocks": 7, "gates": {"wait_seconds": 1}})
    assert varied.name == "custom"
    assert (varied.blocks, varied.repetitions) == (7, 10)
    assert (varied.gates.wait_seconds, varied.gates.load_per_core) == (1, 0.3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"preset": "best"}, "there are quick, standard, publication"),
        ({"prefill_lengths": [0]}, "at least 1 token"),
        ({"cores": []}, "at least one"),
        ({"cores": "little"}, "cores"),
        ({"threads": None}, "where cores are named"),
        ({"settings": ["stay-awake", "stay-awake"]}, "named twice"),
        ({"gates": {"wait": 1}}, "wait"),
        ({"repetition": 1}, "repetition"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Protocol.model_validate(given)


def test_workloads_fit_or_are_left_out() -> None:
    protocol = Protocol(decode_tokens=32, prefill_lengths=(512, 8192), decode_depths=(1024, 32_768, "full"))
    assert [w.label for w in protocol.further(4096)] == [
        "prefill 512",
        "decode 32 at depth 1024",
        "decode 32 at depth 4064",
    ]
    assert [w.label for w in protocol.left_out(4096)] == ["prefill 8192", "decode 32 at depth 32768"]
    assert protocol.main.label == "prefill 128, decode 32"
    assert [w.positions for w in protocol.further(33_000)] == [512, 8192, 1056, 32_800, 33_000]


def test_a_figure_has_students_interval_and_the_bootstraps_beside_it() -> None:
    figure = Figure.over_blocks([1.0, 2.0, 3.0])
    assert (figure.value, figure.blocks, figure.mad) == (2.0, 3, 1.0)
    assert (figure.low, figure.high) == (0.0, pytest.approx(4.4841, abs=1e-3))  # nothing takes less than no time
    assert (figure.bootstrap_low, figure.bootstrap_high) == (1.0, 3.0)
    single = Figure.over_blocks([5.0])
    assert (single.low, single.value, single.high) == (5.0, 5.0, 5.0)


def test_the_probability_to_keep_a_bound_follows_the_interval() -> None:
    assert Figure(value=8, low=8, high=8).at_most(8) == 1.0
    assert Figure(value=8.1, low=8.1, high=8.1).at_most(8) == 0.0
    for blocks in (0, 3, 5):  # whatever it rests on, a bound at the interval's end is kept in 97.5 % of cases
        figure = Figure(value=8, low=7, high=9, blocks=blocks)
        assert figure.at_most(8) == pytest.approx(0.5)
        assert figure.at_most(9) == pytest.approx(0.975, abs=1e-4)
    assert Figure(value=8, low=7, high=9, blocks=3).at_most(10) < Figure(value=8, low=7, high=9).at_most(10)


def test_a_profile_of_everything() -> None:
    depth = Workload(kind="decode", prefill_tokens=1024, decode_tokens=4)
    long = Workload(kind="prefill", prefill_tokens=512)
    further: tuple[Samples, ...] = (
        Samples(workload=long, prefill_ns=(40 * MS, 50 * MS, 60 * MS)),
        Samples(workload=depth, fill_ns=99 * MS, decode_ns=((3 * MS,) * 4,)),
    )
    prefix = Samples(
        workload=Workload(kind="prefix", prefill_tokens=528, prefix_tokens=512),
        prefill_ns=(50 * MS,),
        restored_ns=(2 * MS,),
        restore_ns=(1 * MS,),
        snapshot_bytes=51_200,
    )
    further += (prefix,)
    after = Condition(taken_at=NOW, temperatures_celsius={"SKIN": 41.0}, frequency_cap={"a": 1.0, "b": 0.57})
    found = Profile.of(
        measurement(
            *(block(ms, further=further) for ms in (2.0, 2.2, 2.1)),
            memory=block(2.0, sampled_peak_bytes=600),
            cold_load=ColdLoad(load_ns=77 * MS, resident=0.0),
            sustained=(block(2.0), block(3.0, after=after)),
        )
    )
    assert found.decode_ms.value == 2.1
    assert (found.decode_p99_ms and found.decode_p99_ms.value, found.ttft_ms.value) == (2.1, 10.0)
    assert found.prefill_tokens_per_second.value == 12_800
    assert found.peak_memory_bytes == 500  # swapped-out pages count too
    assert found.cold_load_ms == 77
    prefill, decode, restored = found.further
    assert restored.restored_ttft_ms
    assert restored.restored_share
    assert (restored.restored_ttft_ms.value, restored.restored_share.value) == (2.0, 0.04)
    assert restored.snapshot_bytes_per_token == 100
    assert prefill.ttft_ms is not None
    assert decode.decode_ms is not None
    assert (prefill.ttft_ms.value, prefill.decode_ms, decode.decode_ms.value, decode.ttft_ms) == (50.0, None, 3.0, None)
    assert [minute.decode_ms for minute in found.sustained] == [2.0, 3.0]
    assert (found.sustained[1].skin_celsius, found.sustained[1].lowest_cap) == (41.0, 0.57)
    assert found.flags == ()


def test_flags_say_what_deserves_less_trust() -> None:
    bad = block(
        2.0,
        breaches=(Breach(reason="heated", seen=4.5, allowed=3.0),),
        gate=Gate(waited_seconds=60, unmet=("battery at 38.6 C, at most 35 C",), unknown=("SKIN",)),
        cpus_allowed="3ff",
        prefill_ns=(1, 1),
        after=Condition(taken_at=NOW, frequency_cap={"a": 1.0, "b": 0.57}),
    )
    flags = Profile.of(
        measurement(
            bad,
            memory=block(2.0, steady=MemoryMap(swap_bytes=4096)),
            cold_load=ColdLoad(load_ns=MS, resident=0.9),
            placement=Placement(cores=(9,), mask="200", threads=1),
            settings=(
                SettingChange(setting="fixed-performance", note="no such command"),
                SettingChange(setting="stay-awake", applied=True),
            ),
        )
    ).flags
    for words in (
        "block 1: heated 4.5, allowed 3",
        "gate timed out after 60 s: battery at 38.6 C",
        "could not be read: SKIN",
        "clocks were capped at 57%",
        "time cap ended it after 2 repetitions",
        "too few for an interval",
        "swapped out",
        "pinned to 200, but ran on 3ff",
        "fixed-performance was not taken: no such command",
        "stay-awake was not put back",
        "warm file: 90%",
    ):
        assert any(words in flag for flag in flags), words
    assert Profile.of(measurement(*[block(2.0)] * 3, cold_load=ColdLoad(load_ns=1, resident=0.9))).cold_load_ms is None


def drained(uah: int, *, plugged: bool = False) -> Block:
    first = Condition(taken_at=NOW, plugged=plugged, charge_uah=2_000_000, battery_mv=4000)
    last = first.model_copy(update={"charge_uah": 2_000_000 - uah, "taken_at": NOW + timedelta(minutes=1)})
    return block(1.0, before=first, after=last)


def test_energy_needs_a_phone_on_its_battery_and_a_gauge_that_moved() -> None:
    def of(sustained: Block) -> float | None:
        return Profile.of(measurement(block(1.0), sustained=(sustained,))).joules_per_token

    assert of(drained(50_000)) == pytest.approx(0.05 * 3600 * 4 / 20)  # 50 mAh at 4 V over 20 tokens
    assert of(drained(50_000, plugged=True)) is None
    assert of(drained(5_000)) is None
    assert of(block(1.0)) is None


def test_a_difference_is_claimed_only_when_it_is_sure_and_matters() -> None:
    base = [10.0, 10.1, 9.9, 10.05]
    slower = Ratio.over_pairs(base, [x * f for x, f in zip(base, (1.05, 1.051, 1.049, 1.05), strict=True)])
    assert slower.claimed
    assert slower.value == pytest.approx(1.05, abs=1e-3)
    small = Ratio.over_pairs(base, [x * f for x, f in zip(base, (1.010, 1.011, 1.009, 1.010), strict=True)])
    assert small.low > 1  # sure
    assert not small.claimed  # and of no matter
    unsure = Ratio.over_pairs(base, [x * f for x, f in zip(base, (1.2, 0.9, 1.3, 1.0), strict=True)])
    assert not unsure.claimed
    assert not Ratio.over_pairs([10.0], [20.0]).claimed


def test_a_steady_drift_cancels_in_abba() -> None:
    assert abba(4) == "ABBAABBA"
    truth, a, b = 1.05, [], []
    for position, letter in enumerate(abba(4)):
        now = 1 + 0.02 * position  # 2 % slower from block to block
        (a if letter == "A" else b).append(now * (truth if letter == "B" else 1.0))
    ratio = Ratio.over_pairs(a, b)
    assert ratio.value == pytest.approx(truth, rel=0.005)
    assert ratio.low < truth < ratio.high
