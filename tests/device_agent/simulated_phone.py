"""A phone with a true latency that the bench does not know, on a clock of its own: hours pass in milliseconds.

It stands where a Link does: it is pushed plans, runs them, and prints what a phone prints. What makes measuring hard is
in it: noise from token to token, processes that differ from each other, bursts of background load, a skin that warms
while a runner runs, clocks that are capped when it is hot (at thermal status 0, as Samsung's are), a slow drift.
"""

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench_examples import program, sha256, stub_bundle

from device_agent.adb import Link, Push, ShellResult
from device_agent.bench import Bench
from device_agent.clock import Clock
from device_agent.contracts import MeasureJob, Program, Protocol

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CORES = 8
HIGHEST = {"policy0": (2_000_000, "0 1 2 3"), "policy4": (3_200_000, "4 5 6 7")}
DECODE_MS = 20.0  # a token of the Program whose factor is 1, on a cool phone that is left alone
PREFILL_MS = 2.0  # the same for a token of a prompt
LOAD_SECONDS = 0.5


@dataclass(frozen=True)
class Nature:
    """What the phone is like. Spreads are standard deviations of the logarithm."""

    token_spread: float = 0.03
    prompt_spread: float = 0.01  # the same of a whole prompt, in which tokens' noise averages out
    spikes: float = 0.01  # of steps, that wait for 40 ms more
    process_spread: float = 0.015
    bursts_per_hour: float = 0.0
    burst_seconds: float = 15.0
    burst_slowdown: float = 1.3
    drift_per_minute: float = 0.0
    skin: float = 31.0  # at rest
    skin_at_first: float | None = None
    skin_running: float = 34.0  # where a runner that never ends would take it
    heat_seconds: float = 60.0
    throttle_at: float = 39.0
    recover_at: float = 37.0
    capped: float = 0.57


STEADY = Nature()
BUSY = Nature(bursts_per_hour=60)
THROTTLING = Nature(skin=33.0, skin_running=46.0, heat_seconds=20.0, throttle_at=36.5, recover_at=35.0)
HOT = Nature(skin=33.0, skin_at_first=40.0)
DRIFTING = Nature(drift_per_minute=0.01)


@dataclass
class Run:
    """What really happened in one process: when it ended, and the shares of its tokens that something slowed."""

    ended: float
    throttled: float
    disturbed: float


@dataclass
class SimulatedPhone(Link):
    """`factors` are true relative latencies by the hash of the Program's file."""

    nature: Nature
    seed: int
    factors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.address = "simulated"
        self.runs: list[Run] = []
        self._draw = random.Random(self.seed)
        self._time = 1000.0
        self._skin = self.nature.skin_at_first or self.nature.skin
        self._cap = self.nature.capped if self._skin > self.nature.throttle_at else 1.0
        self._busy = [0.0] * CORES
        self._plans: dict[str, str] = {}
        self._burst_from, self._burst_until = math.inf, math.inf
        if self.nature.bursts_per_hour:
            self._next_burst()

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self._time, self.idle, lambda: EPOCH + timedelta(seconds=self._time))

    # What the bench does with a Link.

    def push(self, local: Path | bytes, remote: str, sha256: str, mode: int = 0o644, timeout: float = 600.0) -> int:
        assert isinstance(local, bytes)
        self._plans[remote.rsplit("/", 1)[1]] = local.decode()
        self.idle(0.02)
        return len(local)

    def push_all(self, files: Sequence[Push], timeout: float = 600.0) -> dict[str, int]:
        self.idle(1.0)
        return {file.remote: 1 for file in files}

    def getprop(self, name: str, timeout: float = 10.0) -> str:
        return "none"

    def script(self, source: str, *arguments: str, timeout: float) -> str:
        self.idle(0.05)
        return "".join(f"\n@@fulcrum@@{name}\n{self._said(name)}" for name in re.findall(r"@@fulcrum@@(\w+)", source))

    def shell(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> ShellResult:
        mask = argv[1] if argv[0] == "taskset" else "ff"
        plan = self._plans[argv[-1].removeprefix("plans/")]
        return ShellResult(0, "\n".join(self._run(plan, mask)).encode(), b"")

    # What the phone is like.

    def idle(self, seconds: float) -> None:
        """Let time pass: the phone cools down, and bursts come and go."""
        self._pass(seconds, self.nature.skin)

    def _pass(self, seconds: float, towards: float) -> None:
        n = self.nature
        left = 1 - seconds / n.heat_seconds if seconds < 0.1 else math.exp(-seconds / n.heat_seconds)
        self._skin = towards + (self._skin - towards) * left
        self._cap = n.capped if self._skin > n.throttle_at else 1.0 if self._skin < n.recover_at else self._cap
        if n.bursts_per_hour:
            overlap = min(self._time + seconds, self._burst_until) - max(self._time, self._burst_from)
            for core in range(4, CORES) if overlap > 0 else ():
                self._busy[core] += 0.8 * overlap
        self._time += seconds
        if n.bursts_per_hour and self._time > self._burst_until:
            self._next_burst()

    def _next_burst(self) -> None:
        n = self.nature
        self._burst_from = self._time + self._draw.expovariate(n.bursts_per_hour / 3600)
        self._burst_until = self._burst_from + self._draw.expovariate(1 / n.burst_seconds)

    def _spend(self, milliseconds: float, process: float, spread: float, run: list[tuple[bool, bool]]) -> int:
        """One timed step; its nanoseconds."""
        n = self.nature
        bursting = self._burst_from <= self._time < self._burst_until
        slow = process * math.exp(self._draw.gauss(0, spread)) / self._cap
        slow *= n.burst_slowdown if bursting else 1.0
        slow *= 1 + n.drift_per_minute * (self._time - 1000) / 60
        run.append((self._cap < 1, bursting))
        seconds = milliseconds * slow / 1e3 + (0.04 if self._draw.random() < n.spikes else 0.0)
        self._busy[4] += seconds
        self._pass(seconds, n.skin_running)
        return round(seconds * 1e9)

    def _run(self, plan: str, mask: str) -> list[str]:
        lines = [line.split() for line in plan.splitlines()]
        words = {line[0]: line[1:] for line in lines}
        number = {key: float(value[0]) for key, value in words.items() if key not in ("mode", "stage", "workload")}
        factor = self.factors.get(words["stage"][0].rsplit("/", 1)[1], 1.0)
        process = factor * math.exp(self._draw.gauss(0, self.nature.process_spread))
        steps: list[tuple[bool, bool]] = []
        said = [json.dumps({"event": "placed", "cpus_allowed": mask}), self._said("ticks")]
        begun = self._time
        load = self._spend(LOAD_SECONDS * 1e3, process, self.nature.prompt_spread, [])
        said.append(json.dumps({"event": "loaded", "load_ns": load, "baseline_bytes": 10_000_000}))
        workloads = [("turn", int(number["prefill"]), int(number["decode"]))]
        workloads += [(line[1], int(line[2]), int(line[3])) for line in lines if line[0] == "workload"]
        for index, (kind, prefill, decode) in enumerate(workloads):
            said += self._workload(index, kind, prefill, decode, number, process, steps)
        own = round((self._time - begun) * 1e9)
        said.append(json.dumps({"event": "done", "peak_bytes": 90_000_000, "cpu_ns": own}))
        shares = [sum(step[i] for step in steps) / len(steps) for i in (0, 1)]
        self.runs.append(Run(self._time, *shares))
        return said

    def _workload(
        self,
        index: int,
        kind: str,
        prefill: int,
        decode: int,
        number: Mapping[str, float],
        process: float,
        steps: list[tuple[bool, bool]],
    ) -> list[str]:
        """The lines of one workload; tokens at a depth cost more, the deeper the more."""
        said, n = [], self.nature
        token_ms = DECODE_MS * (1 + prefill / 20_000)
        if kind == "decode":
            ns = self._spend(prefill * PREFILL_MS, process, n.prompt_spread, [])
            said.append(json.dumps({"event": "filled", "workload": index, "ns": ns}))

        def once() -> dict[str, object]:
            event: dict[str, object] = {"event": "repetition", "workload": index}
            if kind != "decode":
                event["prefill_ns"] = self._spend(prefill * PREFILL_MS, process, n.prompt_spread, steps)
            if kind != "prefill":
                event["decode_ns"] = [self._spend(token_ms, process, n.token_spread, steps) for _ in range(decode)]
            return event

        for phase, counts in (("warmup", False), ("repetitions", True)):
            least = number.get(f"{phase.removesuffix('s')}_seconds", 0.0)
            begun, done = self._time, 0
            while done < number[phase] or self._time - begun < least:
                if done and self._time - begun >= number.get("max_seconds", math.inf):
                    break
                event = once()
                done += 1
                said += [json.dumps(event)] if counts else []
        return said

    def _said(self, name: str) -> str:
        """What the phone prints, in the forms that real phones have."""
        if name == "ticks":
            cores = "\n".join(f"cpu{i} {round(busy * 100)} 0 0 0 0 0 0 0 0 0" for i, busy in enumerate(self._busy))
            return f"{self._time:.2f} 0.00\ncpu 0 0 0 0 0 0 0 0 0 0\n{cores}"
        if name == "thermal":
            return (
                "Thermal Status: 0\nHAL Ready: true\nCurrent temperatures from HAL:\n"
                f"\tTemperature{{mValue={self._skin:.1f}, mType=3, mName=SKIN, mStatus=0}}\n"
            )
        if name == "battery":
            return f"  status: 3\n  level: 80\n  scale: 100\n  temperature: {round(self._skin * 10 - 20)}\n"
        if name == "frequencies":
            return "\n".join(
                f"{policy} {round(highest * self._cap)} {highest} / {cores}"
                for policy, (highest, cores) in HIGHEST.items()
            )
        bursting = self._burst_from <= self._time < self._burst_until
        return {
            "load": f"{3.2 if bursting else 0.5} 0.5 0.5 1/900 1\n",
            "memory": "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
            "cores": f"0-{CORES - 1}\n",
            "properties": "[ro.product.model]: [Simulated]\n[ro.product.cpu.abi]: [arm64-v8a]\n",
        }.get(name, "")


def candidate(name: bytes, depth: int = 4096) -> Program:
    """A Program whose file is `name`."""
    return program(name).model_copy(update={"context_length": depth})


def job(name: bytes, protocol: Protocol) -> MeasureJob:
    return MeasureJob(program=candidate(name), protocol=protocol)


def bench(directory: Path, nature: Nature, seed: int, factors: Mapping[bytes, float] | None = None) -> Bench:
    """A bench that measures on a simulated phone; the phone is its link."""
    known = {sha256(name): factor for name, factor in (factors or {}).items()}
    phone = SimulatedPhone(nature, seed, known)
    bundle = stub_bundle(directory, abi="arm64-v8a")
    return Bench(phone, bundle, serial="simulated", clock=phone.clock)
