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
from device_agent.runner.bundle import PREFIXES, RunnerBundle
from device_agent.runner.output import parse_generate, parse_prefix
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


class CacheDiffers(FulcrumError):
    """The Program keeps keys and values in another type than the Protocol asks for."""

    blame = Blame.USER
    slug = "kv-cache-differs"


class PromptDoesNotFit(FulcrumError):
    """The prompt and what is to follow do not fit into the Program's context, or it has tokens that are none."""

    blame = Blame.USER
    slug = "prompt-does-not-fit"


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
            ProtocolTooLong, CacheDiffers, PromptDoesNotFit: the job and its Program do not agree.
            RunnerFailed: the Program crashed, was refused or did not fit; of a CheckJob that is a result.
            PushFailed, PhoneUnreachable, DeadlineExceeded: the phone's own troubles.
        """
        heal(self._link, HOME)
        if isinstance(job, CheckJob):
            phone = PhoneUnderTest(self._link, self._serial, self._abi, self._facts)
            return self_check(phone, self._runners, job, files, self._process_seconds)
        _require_possible(job)
        runner = self._runner_for(job)
        if self._scarce(job.program):
            runner.sweep(job.program)
        transfer = runner.push(job.program, files)
        if isinstance(job, MeasureJob):
            return self._measure(job, runner, transfer)
        return self._generate(job, runner, transfer)

    def compare(self, first: MeasureJob, second: MeasureJob, files: Mapping[Sha256, Path]) -> Comparison:
        """Measure two jobs by interleaved blocks (ABBA), as many of each as the Protocol has.

        They may differ in their Program and its KV cache, or in cores and threads.

        Raises:
            CannotCompare: their Protocols differ in what would make the figures differ by itself.
            The rest as `run`.
        """
        free = {"cores": None, "threads": 1, "kv_cache": "float32"}
        if first.protocol.model_copy(update=free) != second.protocol.model_copy(update=free):
            raise CannotCompare(
                "The two have different Protocols.", advice="Let them differ in cores, threads and kv_cache only."
            )
        for job in (first, second):
            _require_possible(job)
        runners = {"A": self._runner_for(first), "B": self._runner_for(second)}
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

    def _runner_for(self, job: MeasureJob | GenerateJob) -> PhoneRunner:
        prefixes = job.protocol.prefix_lengths if isinstance(job, MeasureJob) else job.prefix_tokens
        features = frozenset({PREFIXES} if prefixes else ())
        bundle = pick(self._runners, self._serial, self._abi, job.program, features)
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
        lines = runner.run(plan)
        prefill_ns, steps = parse_generate(lines)
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
            prefix=parse_prefix(lines),
        )


def _require_possible(job: MeasureJob | GenerateJob) -> None:
    """What can be known before anything is pushed. Raises ProtocolTooLong, CacheDiffers, PromptDoesNotFit."""
    if isinstance(job, MeasureJob):
        _require_fitting(job)
        return
    program, wanted = job.program, len(job.prompt) + job.new_tokens - 1
    if wanted > program.context_length:
        raise PromptDoesNotFit(
            f"A prompt of {len(job.prompt)} tokens and {job.new_tokens} new ones need {wanted} positions; "
            f"the Program has {program.context_length}.",
            advice="Shorten the prompt, ask for fewer tokens, or export the Program with a longer context.",
        )
    if not all(0 <= token < program.vocab_size for token in job.prompt):
        raise PromptDoesNotFit(
            f"The prompt has a token that is not in the Program's vocabulary of {program.vocab_size}.",
            advice="Encode the prompt with the tokenizer that the model was trained with.",
        )


def _require_fitting(job: MeasureJob) -> None:
    protocol, program = job.protocol, job.program
    if protocol.main.positions > program.context_length:
        raise ProtocolTooLong(
            f"The Protocol needs {protocol.main.positions} positions; the Program has {program.context_length}.",
            advice="Ask for fewer tokens, or export the Program with a longer context.",
        )
    if program.kv_cache not in (None, protocol.kv_cache):
        raise CacheDiffers(
            f"The Protocol asks for a KV cache of {protocol.kv_cache}; the Program keeps {program.kv_cache}.",
            advice=f"Measure it with kv_cache {program.kv_cache}, or export it anew.",
        )
