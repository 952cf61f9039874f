"""How far the bench's figures can be trusted, on simulated phones whose truth is known; prints the tables of
docs/measuring.md.

    make bench-measuring
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from bench_examples import sha256
from simulated_phone import (
    BUSY,
    DECODE_MS,
    DRIFTING,
    EPOCH,
    HOT,
    STEADY,
    THROTTLING,
    Nature,
    SimulatedPhone,
    bench,
    job,
)

from device_agent.contracts import Block, Figure, Gates, Measurement, Protocol
from device_agent.contracts.flags import block_flags
from device_agent.contracts.profile import block_medians

TRUTH = DECODE_MS * (1 + 128 / 20_000)  # of the main workload of every preset
NATURES = {"steady": STEADY, "busy": BUSY, "hot": HOT, "throttling": THROTTLING, "drifting": DRIFTING}


@dataclass(frozen=True)
class Seen:
    """One measurement beside what really happened."""

    measurement: Measurement
    figure: Figure
    phone: SimulatedPhone
    seconds: float

    def slowed(self) -> Iterator[tuple[Block, float, bool]]:
        """Every block of every attempt, the share of its tokens that a cap or a burst slowed, and if it counts."""
        runs = {round(run.ended, 6): max(run.throttled, run.disturbed) for run in self.phone.runs}
        for blocks, counts in ((self.measurement.blocks, True), (self.measurement.rejected, False)):
            for block in blocks:
                assert block.after is not None
                after = (block.after.taken_at - EPOCH).total_seconds()
                yield block, runs[min(runs, key=lambda ended: abs(ended - after))], counts


def measure(directory: Path, nature: Nature, protocol: Protocol, seed: int, factor: float = 1.0) -> Seen:
    """One measurement of a Program with this true factor."""
    made = bench(directory, nature, seed, {b"one": factor})
    phone = made._link
    assert isinstance(phone, SimulatedPhone)
    begun = phone.clock.monotonic()
    result = made.run(job(b"one", protocol), {sha256(b"one"): Path()})
    assert isinstance(result, Measurement)
    figure = Figure.over_blocks(block_medians(result, "decode"))
    return Seen(result, figure, phone, phone.clock.monotonic() - begun)


@dataclass(frozen=True)
class Coverage:
    """How often the interval held the truth, and how wide it was."""

    students: float
    bootstraps: float
    half_width: float
    error: float
    minutes: float


def coverage(seen: Sequence[Seen]) -> Coverage:
    """Over many measurements of the same truth."""
    figures = [one.figure for one in seen]
    return Coverage(
        students=fmean(f.low <= TRUTH <= f.high for f in figures),
        bootstraps=fmean((f.bootstrap_low or 0) <= TRUTH <= (f.bootstrap_high or 0) for f in figures),
        half_width=median((f.high - f.low) / 2 / TRUTH for f in figures),
        error=median(abs(f.value / TRUTH - 1) for f in figures),
        minutes=fmean(one.seconds for one in seen) / 60,
    )


@dataclass(frozen=True)
class Caught:
    """What became of blocks that were slowed in more than a tenth of their tokens, and of those that never were."""

    slowed: int
    caught: int
    fine: int
    wrongly: int


def caught(seen: Sequence[Seen]) -> Caught:
    """Over all blocks of many measurements; caught is rejected or flagged."""
    rows = [(share, any(block_flags(1, block))) for one in seen for block, share, _ in one.slowed()]
    return Caught(
        slowed=sum(share > 0.1 for share, _ in rows),
        caught=sum(share > 0.1 and flagged for share, flagged in rows),
        fine=sum(share == 0 for share, _ in rows),
        wrongly=sum(share == 0 and flagged for share, flagged in rows),
    )


@dataclass(frozen=True)
class Ranked:
    """Outcomes of comparing two Programs, as shares; `minutes` of phone time for one comparison."""

    right: float
    wrong: float
    unsaid: float
    held: float
    minutes: float


def ranked_apart(directory: Path, nature: Nature, protocol: Protocol, factor: float, seeds: Sequence[int]) -> Ranked:
    """Each measured by itself, as a search does, and put in order by its figure: always said, right or wrong."""
    right, seconds = [], []
    for seed in seeds:
        first, second = (measure(directory, nature, protocol, 2 * seed + i, f) for i, f in enumerate((1.0, factor)))
        right.append(first.figure.value < second.figure.value)
        seconds.append(first.seconds + second.seconds)
    return Ranked(fmean(right), 1 - fmean(right), 0.0, math.nan, fmean(seconds) / 60)


def ranked_together(directory: Path, nature: Nature, protocol: Protocol, factor: float, seeds: Sequence[int]) -> Ranked:
    """Compared by interleaved blocks; nothing is said where no difference may be claimed."""
    said, held, seconds = [], [], []
    names = (b"one", b"two")
    files = {sha256(name): Path() for name in names}
    for seed in seeds:
        made = bench(directory, nature, seed, dict(zip(names, (1.0, factor), strict=True)))
        phone = made._link
        assert isinstance(phone, SimulatedPhone)
        begun = phone.clock.monotonic()
        ratio = made.compare(job(b"one", protocol), job(b"two", protocol), files).decode
        seconds.append(phone.clock.monotonic() - begun)
        said.append((ratio.value > 1) == (factor > 1) if ratio.claimed else None)
        held.append(ratio.low <= factor <= ratio.high)
    shares = [fmean(one is what for one in said) for what in (True, False, None)]
    return Ranked(*shares, fmean(held), fmean(seconds) / 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measurements", type=int, default=400, help="of each kind by quick; a quarter by standard")
    count = parser.parse_args().measurements
    with tempfile.TemporaryDirectory() as name:
        _intervals(Path(name), count)
        _rankings(Path(name), count)


UNGATED = Protocol(gates=Gates(battery_celsius=None, skin_celsius=None, uncapped=False, battery_percent=None))


def _presets(count: int) -> Iterator[tuple[str, Protocol, range]]:
    yield "quick", Protocol.preset("quick"), range(count)
    yield "standard", fitted(Protocol.preset("standard")), range(count // 4)


def _intervals(directory: Path, count: int) -> None:
    print(
        "| phone | protocol | measurements | t holds it | bootstrap holds it | half-width | error "
        "| slowed blocks caught | others flagged | minutes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for nature in ("steady", "busy", "hot", "throttling"):
        protocols = [*_presets(count), *([("quick, no gates", UNGATED, range(count))] if nature == "hot" else [])]
        for preset, protocol, seeds in protocols:
            seen = [measure(directory, NATURES[nature], protocol, seed) for seed in seeds]
            c, k = coverage(seen), caught(seen)
            print(
                f"| {nature} | {preset} | {len(seen)} | {c.students:.1%} | {c.bootstraps:.1%} | {c.half_width:.1%} "
                f"| {c.error:.1%} | {k.caught} of {k.slowed} | {k.wrongly} of {k.fine} | {c.minutes:.1f} |",
                flush=True,
            )


def _rankings(directory: Path, count: int) -> None:
    print("\n| true ratio | phone | protocol | way | right | wrong | nothing claimed | held | phone minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for factor in (1.05, 1.0):
        for nature in ("steady", "busy", "drifting"):
            for preset, protocol, seeds in _presets(count):
                for way in (ranked_apart, ranked_together):
                    if way is ranked_apart and factor == 1.0:
                        continue  # one of two equals always comes first
                    r = way(directory, NATURES[nature], protocol, factor, seeds)
                    print(
                        f"| {factor} | {nature} | {preset} | {way.__name__} | {r.right:.1%} | {r.wrong:.1%} "
                        f"| {r.unsaid:.1%} | {r.held:.1%} | {r.minutes:.1f} |",
                        flush=True,
                    )


def fitted(protocol: Protocol) -> Protocol:
    """Without what has no truth here: settings, cold loads and stages."""
    return protocol.model_copy(update={"settings": (), "cold_load": False, "stage_times": False})


if __name__ == "__main__":
    main()
