"""A job on a phone: push what it needs, run fresh processes, and bring home raw samples with the phone's condition."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from device_agent.adb import Link
from device_agent.condition import read_condition, read_facts
from device_agent.contracts import (
    CheckJob,
    GenerateJob,
    Generation,
    MeasureJob,
    Measurement,
    PhoneFacts,
    SelfCheck,
    Sha256,
    Transfer,
)
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.output import parse_generate, parse_measure
from device_agent.runner.plan import generate_plan, measure_plan, memory_plan
from device_agent.runner.process import PhoneRunner, objects_of
from device_agent.runner.shelf import pick
from device_agent.selfcheck import PhoneUnderTest, self_check


class Bench:
    """One phone, over a link, with the runners that there are; each job gets the one that fits phone and Program."""

    def __init__(
        self,
        link: Link,
        runner: RunnerBundle | Sequence[RunnerBundle],
        *,
        serial: str,
        process_seconds: float = 900.0,
    ) -> None:
        """`process_seconds` bounds each process on the phone."""
        self._link = link
        self._runners = (runner,) if isinstance(runner, RunnerBundle) else tuple(runner)
        self._serial = serial
        self._process_seconds = process_seconds
        self._facts = read_facts(link)
        self._abi = link.getprop("ro.fulcrum.host_abi") if self._facts.virtual else self._facts.abi

    @property
    def facts(self) -> PhoneFacts:
        """What the phone said of itself when the bench was made."""
        return self._facts

    def run(
        self, job: MeasureJob | GenerateJob | CheckJob, files: Mapping[Sha256, Path]
    ) -> Measurement | Generation | SelfCheck:
        """Do the job; `files` maps the Program's files to where they lie on this host.

        Raises:
            RunnerMismatch: no runner can run it; of a CheckJob that is a result.
            RunnerFailed: the Program crashed, was refused or did not fit; of a CheckJob that is a result.
            PushFailed, PhoneUnreachable, DeadlineExceeded: the phone's own troubles.
        """
        if isinstance(job, CheckJob):
            phone = PhoneUnderTest(self._link, self._serial, self._abi, self._facts)
            return self_check(phone, self._runners, job, files, self._process_seconds)
        bundle = pick(self._runners, self._serial, self._abi, job.program)
        runner = PhoneRunner(self._link, bundle, self._process_seconds)
        transfer = runner.push(job.program, files)
        if isinstance(job, MeasureJob):
            return self._measure(job, runner, bundle.label, transfer)
        return self._generate(job, runner, transfer)

    def _measure(self, job: MeasureJob, runner: PhoneRunner, label: str, transfer: Transfer) -> Measurement:
        paths = objects_of(job.program)
        plan = runner.write(measure_plan(job, paths))
        memory = runner.write(memory_plan(job, paths))
        before = read_condition(self._link)
        started = time.monotonic()
        blocks = [parse_measure(runner.run(plan)) for _ in range(job.protocol.blocks)]
        peak = parse_measure(runner.run(memory))
        seconds = time.monotonic() - started
        return Measurement(
            program=job.program.hash,
            serial=self._serial,
            virtual=self._facts.virtual,
            runner=label,
            protocol=job.protocol,
            before=before,
            after=read_condition(self._link),
            blocks=tuple(blocks),
            memory=peak,
            transfer=transfer,
            run_seconds=seconds,
        )

    def _generate(self, job: GenerateJob, runner: PhoneRunner, transfer: Transfer) -> Generation:
        plan = runner.write(generate_plan(job, objects_of(job.program)))
        before = read_condition(self._link)
        prefill_ns, steps = parse_generate(runner.run(plan))
        return Generation(
            program=job.program.hash,
            serial=self._serial,
            virtual=self._facts.virtual,
            prompt=job.prompt,
            steps=steps,
            prefill_ns=prefill_ns,
            before=before,
            after=read_condition(self._link),
            transfer=transfer,
        )
