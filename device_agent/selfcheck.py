"""The self-check of a phone: push, hash, load, golden logits, timing sanity, memory. Each step says what it saw.

What a step finds wrong is the check's result; a phone that cannot be reached is the job's failure, and is retried.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from device_agent.adb import Link, PushFailed
from device_agent.contracts import (
    CheckJob,
    CheckName,
    CheckStep,
    FulcrumError,
    PhoneFacts,
    SelfCheck,
    Sha256,
    content_hash,
)
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.output import GoldenRun, RunnerFailed, parse_golden
from device_agent.runner.plan import golden_plan
from device_agent.runner.process import PhoneRunner, objects_of
from device_agent.runner.shelf import RunnerMismatch, pick

_REPETITIONS = 8
_FACTOR = 10.0  # between the fastest of two processes; an S24's slowest and fastest core differ by less
_HASH_SECONDS = 120.0
_SUMS = 'for f; do h=$(sha256sum < "$f") && echo "${h%% *}" || echo -; done'


@dataclass(frozen=True)
class PhoneUnderTest:
    """A phone over its link; `abi` is what its runners must be built for."""

    link: Link
    serial: str
    abi: str | None
    facts: PhoneFacts


class _Wrong(FulcrumError):
    """A step saw something that must not be."""

    slug = "self-check"


def self_check(
    phone: PhoneUnderTest,
    runners: Sequence[RunnerBundle],
    job: CheckJob,
    files: Mapping[Sha256, Path],
    process_seconds: float,
) -> SelfCheck:
    """Make the steps until one fails; `files` maps the Program's files to where they lie here.

    Raises:
        PhoneUnreachable, DeadlineExceeded: the phone went away, or the runner hangs.
    """
    check = _Check(phone, runners, job, files, process_seconds)
    steps: list[CheckStep] = []
    for name in CheckName:
        try:
            message, figures = check.make(name)
        except (_Wrong, RunnerMismatch, RunnerFailed, PushFailed) as error:
            steps.append(CheckStep(name=name, ok=False, message=f"{error.message} {error.advice}".strip()))
            break
        steps.append(CheckStep(name=name, ok=True, message=message, figures=figures))
    bundle = check.bundle
    return SelfCheck(
        program=job.program.hash,
        golden=content_hash(job.golden),
        serial=phone.serial,
        virtual=phone.facts.virtual,
        runner=bundle.label if bundle else None,
        runner_bundle=bundle.id if bundle else None,
        executorch=bundle.manifest.executorch if bundle else None,
        fingerprint=phone.facts.fingerprint,
        steps=tuple(steps),
        taken_at=datetime.now(UTC),
    )


_Seen = tuple[str, dict[str, float]]


class _Check:
    """The steps; each finds what those before it left here."""

    def __init__(
        self,
        phone: PhoneUnderTest,
        runners: Sequence[RunnerBundle],
        job: CheckJob,
        files: Mapping[Sha256, Path],
        process_seconds: float,
    ) -> None:
        self._phone, self._runners, self._job, self._files = phone, runners, job, files
        self._process_seconds = process_seconds
        self.bundle: RunnerBundle | None = None
        self._runner: PhoneRunner
        self._stepwise: GoldenRun
        self._at_once: tuple[GoldenRun, GoldenRun]

    def make(self, name: CheckName) -> _Seen:
        """Make one step: what it saw, and its figures.

        Raises:
            RunnerMismatch, PushFailed, RunnerFailed: and of our own, that something is not as it must be.
        """
        steps: dict[CheckName, Callable[[], _Seen]] = {
            CheckName.RUNNER: self._choose,
            CheckName.PUSH: self._push,
            CheckName.HASH: self._hash,
            CheckName.LOAD: self._load,
            CheckName.GOLDEN: self._compare,
            CheckName.TIMING: self._time,
            CheckName.MEMORY: self._memory,
        }
        return steps[name]()

    def _choose(self) -> _Seen:
        self.bundle = pick(self._runners, self._phone.serial, self._phone.abi, self._job.program)
        self._runner = PhoneRunner(self._phone.link, self.bundle, self._process_seconds)
        return f"{self.bundle.label} for {self.bundle.manifest.abi} fits phone and Program", {}

    def _push(self) -> _Seen:
        sent = self._runner.push(self._job.program, self._files)
        figures = {"pushed_bytes": float(sent.pushed_bytes), "milliseconds": sent.seconds * 1e3}
        return f"{sent.pushed_files} files pushed, {sent.kept_files} were there", figures

    def _hash(self) -> _Seen:
        """Read back by a command of its own: the push's verdict is not taken on trust."""
        wanted = self._runner.files(self._job.program)
        found = self._phone.link.script(_SUMS, *wanted, timeout=_HASH_SECONDS).split()
        wrong = [path for (path, name), sum_ in zip(wanted.items(), found, strict=True) if sum_ != name]
        if wrong:
            raise _Wrong(f"{wrong[0]} lies on the phone with another content.", advice="Check the phone's storage.")
        return f"the phone's own sha256sum agrees on {len(wanted)} files", {}

    def _load(self) -> _Seen:
        golden = self._job.golden
        self._stepwise, _ = self._process(golden.prefill, 1)
        return "the runner loaded the Program", {"load_ms": self._stepwise.load_ns / 1e6}

    def _compare(self) -> _Seen:
        golden = self._job.golden
        if len(self._stepwise.logits) != len(golden.logits):
            told = len(self._stepwise.logits)
            raise _Wrong(f"The runner told {told} rows of logits where {len(golden.logits)} were asked for.")
        at_once, _ = self._process(len(golden.tokens), 1)
        pairs = zip(self._stepwise.logits + at_once.logits, golden.logits + golden.logits[-1:], strict=True)
        worst = max(_distance(given, known) for given, known in pairs)
        if not worst <= golden.bound:
            raise _Wrong(
                f"A logit is {worst:.4g} from eager PyTorch's; rounding explains {golden.bound:.4g} at most.",
                advice="The Program, the runner or its kernels are not what they say: build the runner anew, "
                "from the ExecuTorch release that its manifest names.",
            )
        figures = {"worst_difference": worst, "bound": golden.bound}
        return f"{len(golden.logits) + 1} rows of logits are eager PyTorch's, within rounding", figures

    def _time(self) -> _Seen:
        """The clock runs, more tokens take longer, and a second process takes about as long as the first."""
        golden = self._job.golden
        short, wall = self._process(golden.prefill, _REPETITIONS)
        first, _ = self._process(len(golden.tokens), _REPETITIONS)
        second, _ = self._process(len(golden.tokens), _REPETITIONS)
        self._at_once = first, second
        spent = short.load_ns + sum(short.feed_ns)
        if min(*short.feed_ns, *first.feed_ns, *second.feed_ns, short.load_ns) <= 0 or spent > wall:
            raise _Wrong(
                f"The runner's clock is no clock: it counted {spent / 1e6:.3f} ms in a process of {wall / 1e6:.3f} ms, "
                f"the shortest step {min(short.feed_ns) / 1e6:.3f} ms.",
                advice="Build the runner anew; it must read CLOCK_MONOTONIC.",
            )
        per_pass = len(golden.tokens) - golden.prefill + 1
        few, many = min(short.feed_ns[::per_pass]), min(first.feed_ns)
        if many <= few:
            raise _Wrong(
                f"A prefill of {len(golden.tokens)} tokens took {many / 1e6:.3f} ms, "
                f"one of {golden.prefill} took {few / 1e6:.3f} ms.",
                advice="The runner does not do the work that it times: build it anew.",
            )
        ratio = max(many, min(second.feed_ns)) / min(many, min(second.feed_ns))
        if ratio > _FACTOR:
            raise _Wrong(
                f"The same prefill took {ratio:.0f} times as long in another process.",
                advice="Let the phone rest and cool, close its apps, and test it again.",
            )
        figures = {"prefill_few_ms": few / 1e6, "prefill_many_ms": many / 1e6, "repeat_ratio": ratio}
        return f"{len(golden.tokens)} tokens take longer than {golden.prefill}, again and again", figures

    def _memory(self) -> _Seen:
        run = self._at_once[0]
        total = self._phone.facts.memory_bytes
        if not 0 < run.baseline_bytes <= run.peak_bytes or (total is not None and run.peak_bytes >= total):
            raise _Wrong(
                f"The runner read {run.baseline_bytes} bytes before and {run.peak_bytes} at its peak, "
                f"on a phone with {total} bytes.",
                advice="Build the runner anew; it must read VmHWM of /proc/self/status.",
            )
        figures = {"baseline_bytes": float(run.baseline_bytes), "peak_bytes": float(run.peak_bytes)}
        return "peak memory could be read", figures

    def _process(self, prefill: int, repetitions: int) -> tuple[GoldenRun, int]:
        """What a fresh process told, and its nanoseconds as seen from here."""
        golden, program = self._job.golden, self._job.program
        plan = self._runner.write(golden_plan(program, golden.tokens, prefill, repetitions, objects_of(program)))
        started = time.monotonic_ns()
        lines = self._runner.run(plan)
        wall = time.monotonic_ns() - started
        run = parse_golden(lines)
        feeds = repetitions * (len(golden.tokens) - prefill + 1)
        if len(run.feed_ns) != feeds:
            raise _Wrong(f"The runner fed {len(run.feed_ns)} times where {feeds} were asked for.")
        return run, wall


def _distance(given: Sequence[float], known: Sequence[float]) -> float:
    """The largest difference; infinite where a logit is missing or no number."""
    if len(given) != len(known) or not all(map(math.isfinite, given)):
        return math.inf
    return max(abs(a - b) for a, b in zip(given, known, strict=True))
