"""What comes back from a phone: raw samples and the phone's condition."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from device_agent.contracts.base import Wire
from device_agent.contracts.program import Sha256
from device_agent.contracts.protocol import Protocol, Setting, Workload

Reason = Literal["frequency-cap", "heated", "drift", "spread", "foreign-cpu"]


class Condition(Wire):
    """A phone's state at one moment; what could not be read is None or absent."""

    taken_at: AwareDatetime
    battery_percent: int | None = None
    battery_celsius: float | None = None
    charging: bool | None = None
    plugged: bool | None = Field(default=None, description="Power comes in by cable or coil, charging or not")
    charge_uah: int | None = Field(default=None, description="What the gauge counts as left, in microampere-hours")
    battery_mv: int | None = None
    thermal_status: int | None = None
    temperatures_celsius: dict[str, float] = Field(default_factory=dict)
    frequency_cap: dict[str, float] = Field(
        default_factory=dict, description="cpufreq policy to scaling_max_freq / cpuinfo_max_freq; below 1 is a cap"
    )
    load_1min: float | None = None
    memory_available_bytes: int | None = None


class Gate(Wire):
    """What was seen at the gate before a block. A gate that timed out is passed with what is still unmet."""

    waited_seconds: float = Field(ge=0)
    unmet: tuple[str, ...] = Field(default=(), description="What the phone still broke when the block began")
    unknown: tuple[str, ...] = Field(default=(), description="What was asked for and could not be read")

    @property
    def timed_out(self) -> bool:
        """The block began although a gate was not met."""
        return bool(self.unmet)


class Breach(Wire):
    """Why a block is unfit to count: which limit, what was seen, what was allowed."""

    reason: Reason
    seen: float
    allowed: float


class MemoryMap(Wire):
    """A process's memory at one moment, from /proc/PID/status and smaps_rollup; what could not be read is None."""

    rss_bytes: int | None = None
    file_bytes: int | None = Field(default=None, description="Part of RSS that maps files, a mapped .pte among them")
    swap_bytes: int | None = None
    pss_bytes: int | None = None
    private_dirty_bytes: int | None = None


TokenTimes = Annotated[tuple[int, ...], Field(min_length=1)]


class Samples(Wire):
    """Raw samples of one workload beside the main one, in nanoseconds."""

    workload: Workload
    fill_ns: int | None = Field(default=None, ge=0, description="Once, to reach the depth; not part of decoding")
    prefill_ns: tuple[int, ...] = ()
    decode_ns: tuple[TokenTimes, ...] = Field(default=(), description="[repetition][token]")
    restored_ns: tuple[int, ...] = Field(
        default=(), description="prefix: one per repetition, to the first logits with the prefix restored"
    )
    restore_ns: tuple[int, ...] = Field(default=(), description="prefix: the restoring alone, part of the former")
    snapshot_bytes: int | None = Field(default=None, ge=0, description="prefix: the snapshot's file")
    snapshot_ns: int | None = Field(default=None, ge=0, description="prefix: to write and sync it, once")


class Block(Wire):
    """The raw samples of one process. Times are nanoseconds of the runner's own monotonic clock."""

    load_ns: int = Field(ge=0)
    first_prefill_ns: int | None = Field(default=None, ge=0, description="The first run of the process, in its warm-up")
    prefill_ns: tuple[int, ...] = Field(
        min_length=1, description="One per repetition: the whole prompt, to the first logits (TTFT)"
    )
    decode_ns: tuple[TokenTimes, ...] = Field(min_length=1, description="[repetition][token]")
    further: tuple[Samples, ...] = ()
    baseline_bytes: int = Field(ge=0, description="VmHWM before the Program was loaded")
    peak_bytes: int = Field(ge=0, description="VmHWM at the end")
    sampled_peak_bytes: int | None = Field(default=None, ge=0, description="Highest RSS + swap seen, memory pass only")
    memory_samples: int = 0
    loaded: MemoryMap | None = Field(default=None, description="After loading, memory pass only")
    steady: MemoryMap | None = Field(default=None, description="At the end, memory pass only")
    cpu_ns: int | None = Field(default=None, ge=0, description="Processor time of the whole process")
    cpus_allowed: str | None = Field(default=None, description="The mask that the process really had, in hex")
    gate: Gate | None = None
    before: Condition | None = None
    after: Condition | None = None
    foreign_cpu: float | None = Field(default=None, description="Share of the used cores' time that others took")
    breaches: tuple[Breach, ...] = ()


class Transfer(Wire):
    """What was pushed, and what the phone had already."""

    pushed_bytes: int
    pushed_files: int
    kept_files: int
    seconds: float


class Placement(Wire):
    """The cores that the runner was pinned to, and its threads."""

    cores: tuple[int, ...]
    mask: str = Field(description="As given to taskset: hex, without 0x")
    threads: int
    kinds: tuple[str, ...] = Field(default=(), description="What the cores are, from /proc/cpuinfo")


class SettingChange(Wire):
    """One setting: what it was, whether the change was taken, whether it was put back."""

    setting: Setting
    was: str = ""
    applied: bool = False
    restored: bool = False
    note: str = ""


class ColdLoad(Wire):
    """A load in a process of its own, after the Program's files were asked to leave the page cache.

    Only root can drop the cache for sure. `resident` is the share of their pages that mincore(2) still found; above
    1 % the load is that of a warm file, whatever it was meant to be.
    """

    load_ns: int = Field(ge=0)
    resident: float = Field(ge=0, le=1)

    @property
    def cold(self) -> bool:
        """The files were really read from storage."""
        return self.resident <= 0.01


class StageTimes(Wire):
    """One stage's times in nanoseconds, in a pass of its own."""

    stage: str
    prefill_ns: tuple[int, ...]
    decode_ns: tuple[int, ...]


class Measurement(Wire):
    """One Protocol on one Program on one phone."""

    program: Sha256
    serial: str
    virtual: bool
    runner: str = Field(description="Runner id and ExecuTorch version that ran it")
    protocol: Protocol
    before: Condition
    after: Condition
    blocks: tuple[Block, ...] = Field(min_length=1, description="Those that count, breaches and all")
    rejected: tuple[Block, ...] = Field(default=(), description="Run again: kept, and counted in nothing")
    memory: Block = Field(description="The memory pass: one block that nothing is timed in")
    transfer: Transfer
    run_seconds: float
    placement: Placement | None = Field(default=None, description="None: the phone's scheduler chose")
    settings: tuple[SettingChange, ...] = ()
    cold_load: ColdLoad | None = None
    stages: tuple[StageTimes, ...] = ()
    sustained: tuple[Block, ...] = Field(default=(), description="One per minute, one after the other")
    left_out: tuple[Workload, ...] = Field(default=(), description="What the Program's context cannot hold")


class TokenStep(Wire):
    """One greedy choice: the token taken, and the second best, with their logits."""

    token: int
    logit: float
    runner_up: int
    runner_up_logit: float
    ns: int


class PrefixUse(Wire):
    """What a snapshot did for a generation."""

    restored: int = Field(ge=0, description="Tokens of the prompt that nothing was computed for")
    restore_ns: int = Field(ge=0, description="To find and restore them")
    kept_bytes: int = Field(ge=0, description="The new snapshot's file; 0 where none was written")
    note: str = Field(default="", description="Which snapshots were refused, or why none was kept")


class Generation(Wire):
    """A continuation made on the phone, token by token."""

    program: Sha256
    serial: str
    virtual: bool
    prompt: tuple[int, ...]
    steps: tuple[TokenStep, ...]
    prefill_ns: int
    before: Condition
    after: Condition
    transfer: Transfer
    prefix: PrefixUse | None = Field(default=None, description="Where the job named a prefix")
