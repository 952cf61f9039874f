"""How to measure, and what comes back: raw samples and the phone's condition."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from device_agent.contracts.base import Wire
from device_agent.contracts.program import Sha256


class Protocol(Wire):
    """How to measure. Each block is a fresh process: load, warm up, then `repetitions` of prefill and decode.

    A repetition clears the state, prefills `prefill_tokens` and decodes `decode_tokens` more, one by one.
    Peak memory is taken from processes of its own, so that reading it disturbs no timing.
    """

    prefill_tokens: int = Field(default=128, ge=1)
    decode_tokens: int = Field(default=32, ge=1)
    warmup: int = Field(default=1, ge=0, le=1000)
    repetitions: int = Field(default=5, ge=1, le=1000)
    blocks: int = Field(default=3, ge=1, le=1000)
    threads: int = Field(default=1, ge=1, le=256)


class Condition(Wire):
    """A phone's state at one moment; what could not be read is None or absent."""

    taken_at: AwareDatetime
    battery_percent: int | None = None
    battery_celsius: float | None = None
    charging: bool | None = None
    thermal_status: int | None = None
    temperatures_celsius: dict[str, float] = Field(default_factory=dict)
    frequency_cap: dict[str, float] = Field(
        default_factory=dict, description="cpufreq policy to scaling_max_freq / cpuinfo_max_freq; below 1 is a cap"
    )
    load_1min: float | None = None
    memory_available_bytes: int | None = None


class Block(Wire):
    """The raw samples of one process. Times are nanoseconds of the runner's own monotonic clock."""

    load_ns: int = Field(ge=0)
    prefill_ns: tuple[int, ...] = Field(
        min_length=1, description="One per repetition: the whole prompt, to the first logits (TTFT)"
    )
    decode_ns: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(
        min_length=1, description="[repetition][token]"
    )
    baseline_bytes: int = Field(ge=0, description="VmHWM before the Program was loaded")
    peak_bytes: int = Field(ge=0, description="VmHWM at the end")


class Transfer(Wire):
    """What was pushed, and what the phone had already."""

    pushed_bytes: int
    pushed_files: int
    kept_files: int
    seconds: float


class Measurement(Wire):
    """One Protocol on one Program on one phone."""

    program: Sha256
    serial: str
    virtual: bool
    runner: str = Field(description="Runner id and ExecuTorch version that ran it")
    protocol: Protocol
    before: Condition
    after: Condition
    blocks: tuple[Block, ...] = Field(min_length=1)
    memory: Block = Field(description="The memory pass: one block that nothing is timed in")
    transfer: Transfer
    run_seconds: float


class TokenStep(Wire):
    """One greedy choice: the token taken, and the second best, with their logits."""

    token: int
    logit: float
    runner_up: int
    runner_up_logit: float
    ns: int


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
