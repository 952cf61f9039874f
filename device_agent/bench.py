"""A job on a phone: push what it needs, run fresh processes, and bring home raw samples with the phone's condition."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from device_agent.adb import Link
from device_agent.clock import Clock
from device_agent.condition import read_condition, read_cores, read_facts
from device_agent.contracts import (
    Blame,
    CheckJob,
    Comparison,
    FulcrumError,
    GenerateJob,
    Generation,
    MeasureJob,
    Measurement,
    PhoneFacts,
    Placement,
    Program,
    SelfCheck,
    Sha256,
    Transfer,
    abba,
)
from device_agent.placement import place
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.output import parse_generate
from device_agent.runner.plan import generate_plan
from device_agent.runner.process import HOME, PhoneRunner, objects_of
from device_agent.runner.shelf import pick
from device_agent.selfcheck import PhoneUnderTest, self_check
from device_agent.series import Series, Watch
from device_agent.settings import LEASE_SECONDS, SettingsSession, heal


class CannotCompare(FulcrumError):
    """Two jobs that differ in more than what is to be compared."""

    blame = Blame.USER
    slug = "cannot-compare"


class ProtocolTooLong(FulcrumError):
    """The main workload does not fit into the Program's context."""

    blame = Blame.USER
    slug = "protocol-too-long"


class Bench:
    """One phone, over a link, with the runners that there are; each job gets the one that fits phone and Program."""

    def __init__(
        self,
        link: Link,
        runner: RunnerBundle | Sequence[RunnerBundle],
        *,
        serial: str,
        process_seconds: float = 900.0,
        clock: Clock | None = None,
        lease_seconds: int = LEASE_SECONDS,
        keep_free_bytes: int = 1 << 30,
    ) -> None:
        """`process_seconds` bounds each process on the phone; `lease_seconds` is how long the phone waits for a bench
        that has gone before it puts its settings back. Where a push would leave less than `keep_free_bytes` of the
        phone's storage, what earlier jobs left there goes first.
        """
        self._clock = clock or Clock()
        self._lease_seconds = lease_seconds
        self._keep_free_bytes = keep_free_bytes
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
        heal(self._link, HOME)
        if isinstance(job, CheckJob):
            phone = PhoneUnderTest(self._link, self._serial, self._abi, self._facts)
            return self_check(phone, self._runners, job, files, self._process_seconds)
        runner = self._runner_for(job.program)
        if self._scarce(job.program):
            runner.sweep(job.program)
        transfer = runner.push(job.program, files)
        if isinstance(job, MeasureJob):
            return self._measure(job, runner, transfer)
        return self._generate(job, runner, transfer)

    def compare(self, first: MeasureJob, second: MeasureJob, files: Mapping[Sha256, Path]) -> Comparison:
        """Measure two jobs by interleaved blocks (ABBA), as many of each as the Protocol has.

        They may differ in their Program, or in cores and threads.

        Raises:
            CannotCompare: their Protocols differ in what would make the figures differ by itself.
            The rest as `run`.
        """
        free = {"cores": None, "threads": 1}
        if first.protocol.model_copy(update=free) != second.protocol.model_copy(update=free):
            raise CannotCompare(
                "The two have different Protocols.", advice="Let them differ in cores and threads only."
            )
        runners = {"A": self._runner_for(first.program), "B": self._runner_for(second.program)}
        heal(self._link, HOME)
        both = {"A": self._series(first, runners["A"]), "B": self._series(second, runners["B"])}
        transfers = {letter: runners[letter].push(series.job.program, files) for letter, series in both.items()}
        with self._session(first) as session:
            watch = self._watch(session)
            order = abba(first.protocol.blocks)
            for letter in order:
                both[letter].block(watch)
            for series in both.values():
                series.passes(watch)
        done = {letter: self._measurement(series, transfers[letter], session) for letter, series in both.items()}
        return Comparison.of(done["A"], done["B"], order)

    def _runner_for(self, program: Program) -> PhoneRunner:
        bundle = pick(self._runners, self._serial, self._abi, program)
        return PhoneRunner(self._link, bundle, self._process_seconds)

    def _scarce(self, program: Program) -> bool:
        free = self._facts.free_bytes
        return free is not None and free < self._keep_free_bytes + sum(program.files.values())

    def _measure(self, job: MeasureJob, runner: PhoneRunner, transfer: Transfer) -> Measurement:
        series = self._series(job, runner)
        with self._session(job) as session:
            watch = self._watch(session)
            for _ in range(job.protocol.blocks):
                series.block(watch)
            series.passes(watch)
        return self._measurement(series, transfer, session)

    def _session(self, job: MeasureJob) -> SettingsSession:
        return SettingsSession(self._link, HOME, job.protocol.settings, self._lease_seconds)

    def _watch(self, session: SettingsSession) -> Watch:
        return Watch(self._link, self._clock, session.renew, self._facts.cores)

    def _series(self, job: MeasureJob, runner: PhoneRunner) -> Series:
        if job.protocol.main.positions > job.program.context_length:
            raise ProtocolTooLong(
                f"The Protocol needs {job.protocol.main.positions} positions; the Program has "
                f"{job.program.context_length}.",
                advice="Ask for fewer tokens, or export the Program with a longer context.",
            )
        return Series(job, runner, self._placement(job))

    def _placement(self, job: MeasureJob) -> Placement | None:
        return place(job.protocol, *read_cores(self._link)) if job.protocol.cores is not None else None

    def _measurement(self, series: Series, transfer: Transfer, session: SettingsSession) -> Measurement:
        return series.measurement(
            serial=self._serial,
            virtual=self._facts.virtual,
            transfer=transfer,
            settings=session.changes,
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
