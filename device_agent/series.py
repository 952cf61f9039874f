"""The blocks of one job: gated, run in fresh processes, judged, run again where they must be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from device_agent.adb import Link
from device_agent.clock import Clock
from device_agent.condition import Reading, Ticks, read_phone
from device_agent.contracts import (
    Block,
    ColdLoad,
    Condition,
    Gate,
    MeasureJob,
    Measurement,
    Placement,
    SettingChange,
    Sha256,
    StageTimes,
    Transfer,
)
from device_agent.gate import pass_gate
from device_agent.rejection import breaches, foreign_cpu
from device_agent.runner import plan as plans
from device_agent.runner.output import parse_cold_load, parse_measure, parse_stages
from device_agent.runner.process import PhoneRunner, objects_of

_FRESH_SECONDS = 0.5  # a reading this young is one of now
_SLICE_SECONDS = 10.0  # waits are cut so that the lease on changed settings is renewed in time
_MINUTE = 60.0


class Watch:
    """Reads the phone, waits, and keeps the lease on its settings."""

    def __init__(self, link: Link, clock: Clock, renew: Callable[[], None], cores: int | None) -> None:
        self._link, self._renew = link, renew
        self.clock, self.cores = clock, cores
        self._last: Reading | None = None
        self._last_at = 0.0

    def read(self) -> Reading:
        """The phone's condition now."""
        self._last = read_phone(self._link, self.clock.now())
        self._last_at = self.clock.monotonic()
        return self._last

    def recent(self) -> Reading:
        """The last reading if it is of just now, else another."""
        if self._last is not None and self.clock.monotonic() - self._last_at < _FRESH_SECONDS:
            return self._last
        return self.read()

    def pause(self, seconds: float) -> None:
        """Wait."""
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 0:
            self._renew()
            self.clock.sleep(min(left, _SLICE_SECONDS))

    def renew(self) -> None:
        """Keep the settings changed for a while longer."""
        self._renew()


@dataclass
class Series:
    """One job's blocks as they come."""

    job: MeasureJob
    runner: PhoneRunner
    placement: Placement | None
    blocks: list[Block] = field(default_factory=list)
    rejected: list[Block] = field(default_factory=list)
    sustained: list[Block] = field(default_factory=list)
    memory: Block | None = None
    cold_load: ColdLoad | None = None
    stages: tuple[StageTimes, ...] = ()
    before: Condition | None = None
    after: Condition | None = None
    begun: float = 0.0
    ended: float = 0.0

    def block(self, watch: Watch) -> None:
        """One block that counts: an attempt, and others while limits are broken and reruns are left."""
        limits = self.job.protocol.limits
        if self.before is None:
            self.before, self.begun = watch.recent().condition, watch.clock.monotonic()
        for attempt in range(limits.reruns + 1):
            block = self._gated(watch)
            if not block.breaches or attempt == limits.reruns:
                self.blocks.append(block)
                return
            self.rejected.append(block)

    def passes(self, watch: Watch) -> None:
        """What is read in processes of its own, after the blocks: memory, a cold load, stages, sustained decoding."""
        protocol, threads = self.job.protocol, self._threads
        lines = self._run(plans.memory_plan(self.job, self.paths, threads), watch)
        self.memory = parse_measure(lines, protocol.further(self.job.program.context_length))
        if protocol.cold_load:
            self.cold_load = parse_cold_load(self._run(plans.cold_load_plan(self.job, self.paths, threads), watch))
        if protocol.stage_times:
            names = [stage.name for stage in self.job.program.stages]
            self.stages = parse_stages(self._run(plans.stages_plan(self.job, self.paths, threads), watch), names)
        for _ in range(protocol.sustained_minutes):
            plan = plans.sustained_plan(self.job, self.paths, threads, _MINUTE)
            self.sustained.append(self._attempt(watch, plan, None, watch.recent()))
        self.after, self.ended = watch.read().condition, watch.clock.monotonic()

    def measurement(
        self, *, serial: str, virtual: bool, transfer: Transfer, settings: tuple[SettingChange, ...]
    ) -> Measurement:
        """All of it, once the passes are done."""
        assert self.memory is not None
        assert self.before is not None
        assert self.after is not None
        return Measurement(
            program=self.job.program.hash,
            serial=serial,
            virtual=virtual,
            runner=self.runner.label,
            protocol=self.job.protocol,
            before=self.before,
            after=self.after,
            blocks=tuple(self.blocks),
            rejected=tuple(self.rejected),
            memory=self.memory,
            transfer=transfer,
            run_seconds=self.ended - self.begun,
            placement=self.placement,
            settings=settings,
            cold_load=self.cold_load,
            stages=self.stages,
            sustained=tuple(self.sustained),
            left_out=self.job.protocol.left_out(self.job.program.context_length),
        )

    @property
    def paths(self) -> Mapping[Sha256, str]:
        """Where the Program's files lie on the phone."""
        return objects_of(self.job.program)

    @property
    def _threads(self) -> int:
        return self.placement.threads if self.placement else self.job.protocol.threads or 1

    def _gated(self, watch: Watch) -> Block:
        protocol = self.job.protocol
        if protocol.cool_down_seconds and (self.blocks or self.rejected):
            watch.pause(protocol.cool_down_seconds)
        gate, reading = pass_gate(protocol.gates, watch.recent(), watch.read, watch.pause, watch.clock, watch.cores)
        return self._attempt(watch, plans.measure_plan(self.job, self.paths, self._threads), gate, reading)

    def _attempt(self, watch: Watch, plan: str, gate: Gate | None, before: Reading) -> Block:
        lines = self._run(plan, watch)
        further = self.job.protocol.further(self.job.program.context_length) if gate is not None else ()
        block = parse_measure(lines, further)
        start = Ticks.of("\n".join(line for line in lines if not line.startswith("{")))
        after = watch.read()
        block = block.model_copy(
            update={
                "gate": gate,
                "before": before.condition,
                "after": after.condition,
                "foreign_cpu": foreign_cpu(start, after.ticks, block.cpu_ns, block.cpus_allowed),
            }
        )
        return block.model_copy(update={"breaches": breaches(self.job.protocol.limits, block) if gate else ()})

    def _run(self, plan: str, watch: Watch) -> list[str]:
        watch.renew()
        return self.runner.run(self.runner.write(plan), self.placement, self._asked_seconds)

    @property
    def _asked_seconds(self) -> float:
        """What the Protocol itself asks a process to last, at the longest: the bound of a process comes on top."""
        protocol = self.job.protocol
        workloads = 1 + len(protocol.further(self.job.program.context_length))
        each = protocol.max_seconds or protocol.warmup_seconds + protocol.repetition_seconds
        return max(2 * each * workloads, _MINUTE if protocol.sustained_minutes else 0.0)
