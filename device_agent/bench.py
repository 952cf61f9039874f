"""A job on a phone: push what it needs, run fresh processes, and bring home raw samples with the phone's condition."""

import hashlib
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from device_agent.adb import Link, Push, ShellResult
from device_agent.condition import read_condition, read_facts
from device_agent.contracts import (
    Blame,
    FulcrumError,
    GenerateJob,
    Generation,
    MeasureJob,
    Measurement,
    PhoneFacts,
    Program,
    Sha256,
    Transfer,
)
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.output import RunnerFailed, parse_generate, parse_measure
from device_agent.runner.plan import generate_plan, measure_plan, memory_plan

HOME = "/data/local/tmp/fulcrum"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+\-]{0,127}")
_RUN = 'cd "$1" && exec "$2" "$3"'
_PUSH_SECONDS = 1800.0
_OUT_OF_MEMORY = "The Program does not fit on this phone: tighten the memory budget or the context length."


class RunnerMismatch(FulcrumError):
    """The agent's runner is not for this phone, or not for this Program."""

    blame = Blame.USER
    slug = "runner-mismatch"


class Bench:
    """One phone, over a link, with a runner. Paths in plans are relative to `HOME`, where the runner is started."""

    def __init__(
        self,
        link: Link,
        runner: RunnerBundle,
        *,
        serial: str,
        process_seconds: float = 900.0,
    ) -> None:
        """`process_seconds` bounds each process on the phone."""
        self._link = link
        self._runner = runner
        self._serial = serial
        self._process_seconds = process_seconds
        self._facts = read_facts(link)
        self._host_abi = link.getprop("ro.fulcrum.host_abi") if self._facts.virtual else ""
        manifest = hashlib.sha256(runner.manifest.model_dump_json().encode()).hexdigest()
        self._runner_home = f"runners/{manifest}"

    @property
    def facts(self) -> PhoneFacts:
        """What the phone said of itself when the bench was made."""
        return self._facts

    def run(self, job: MeasureJob | GenerateJob, files: Mapping[Sha256, Path]) -> Measurement | Generation:
        """Do the job; `files` maps the Program's files to where they lie on this host.

        Raises:
            RunnerMismatch: this runner cannot run it.
            RunnerFailed: the Program crashed, was refused or did not fit.
            PushFailed, PhoneUnreachable, DeadlineExceeded: the phone's own troubles.
        """
        self._check(job.program)
        transfer = self._push(job.program, files)
        return self._measure(job, transfer) if isinstance(job, MeasureJob) else self._generate(job, transfer)

    def _check(self, program: Program) -> None:
        manifest = self._runner.manifest
        abi = self._host_abi if self._facts.virtual else self._facts.abi
        if manifest.abi != abi:
            raise RunnerMismatch(
                f"{self._serial} runs programs for {abi}; the runner {manifest.id} is for {manifest.abi}.",
                advice="Give the agent a runner built for this phone (--runner).",
            )
        if manifest.executorch != program.executorch:
            raise RunnerMismatch(
                f"The Program was exported by ExecuTorch {program.executorch}, the runner has {manifest.executorch}.",
                advice="Use a runner of the exporter's version: a newer .pte may not load in an older runtime.",
            )

    def _push(self, program: Program, files: Mapping[Sha256, Path]) -> Transfer:
        pushes = [Push(files[name], f"{HOME}/{_object(name)}", name) for name in sorted(program.files)]
        for file in self._runner.manifest.files:
            if not _FILE_NAME.fullmatch(file.name):
                raise RunnerMismatch(f"A runner's file cannot be named {file.name!r}.")
            mode = 0o755 if file.executable else 0o644
            local = self._runner.directory / file.name
            pushes.append(Push(local, f"{HOME}/{self._runner_home}/{file.name}", file.sha256, mode))
        started = time.monotonic()
        sent = self._link.push_all(pushes, timeout=_PUSH_SECONDS)
        pushed = [count for count in sent.values() if count]
        return Transfer(
            pushed_bytes=sum(pushed),
            pushed_files=len(pushed),
            kept_files=len(sent) - len(pushed),
            seconds=time.monotonic() - started,
        )

    def _measure(self, job: MeasureJob, transfer: Transfer) -> Measurement:
        paths = {name: _object(name) for name in job.program.files}
        plan = self._plan(measure_plan(job, paths))
        memory = self._plan(memory_plan(job, paths))
        before = read_condition(self._link)
        started = time.monotonic()
        blocks = [parse_measure(self._process(plan)) for _ in range(job.protocol.blocks)]
        peak = parse_measure(self._process(memory))
        seconds = time.monotonic() - started
        return Measurement(
            program=job.program.hash,
            serial=self._serial,
            virtual=self._facts.virtual,
            runner=self._runner.label,
            protocol=job.protocol,
            before=before,
            after=read_condition(self._link),
            blocks=tuple(blocks),
            memory=peak,
            transfer=transfer,
            run_seconds=seconds,
        )

    def _generate(self, job: GenerateJob, transfer: Transfer) -> Generation:
        paths = {name: _object(name) for name in job.program.files}
        plan = self._plan(generate_plan(job, paths))
        before = read_condition(self._link)
        prefill_ns, steps = parse_generate(self._process(plan))
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

    def _plan(self, text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._link.push(text.encode(), f"{HOME}/plans/{digest}", digest)
        return f"plans/{digest}"

    def _process(self, plan: str) -> list[str]:
        """The lines of one fresh process of the runner."""
        entry = f"{self._runner_home}/{self._runner.manifest.entry}"
        done = self._link.shell(
            ["sh", "-c", _RUN, "sh", HOME, f"./{entry}", plan],
            self._process_seconds,
            env={"LD_LIBRARY_PATH": f"{HOME}/{self._runner_home}"},
        )
        lines = done.text.splitlines()
        if done.exit_code != 0 and not any('"error"' in line for line in lines):
            raise _death(done)
        return lines


def _object(name: Sha256) -> str:
    return f"objects/{name}"


def _death(done: ShellResult) -> RunnerFailed:
    """What an exit without a word means: Android's low-memory killer and Linux's both send SIGKILL."""
    tail = done.stderr.decode(errors="replace").strip()[-500:]
    if done.exit_code == 128 + signal.SIGKILL:
        return RunnerFailed(
            f"The runner was killed on the phone, most likely for its memory. {tail}".strip(),
            slug="out-of-memory",
            advice=_OUT_OF_MEMORY,
        )
    how = f"exit code {done.exit_code}"
    if done.exit_code > 128 and done.exit_code - 128 in set(signal.Signals):
        how = f"signal {signal.Signals(done.exit_code - 128).name}"
    return RunnerFailed(
        f"The runner ended with {how}. {tail}".strip(),
        slug="runner-crashed",
        advice="Run the plan by hand on the phone to see why; the Program may use an operator the runner lacks.",
    )
