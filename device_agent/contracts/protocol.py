"""A Protocol: how to measure, as data."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from device_agent.contracts.base import Wire
from device_agent.contracts.program import KvCache

Preset = Literal["quick", "standard", "publication"]
CoreSet = Literal["big", "big+mid", "all"]
Setting = Literal["airplane-mode", "stay-awake", "fixed-performance", "screen-off"]
WorkloadKind = Literal["turn", "prefill", "decode", "prefix"]


class Workload(Wire):
    """What one repetition does, and what is timed in it.

    turn: clear the state, prefill `prefill_tokens` (timed: TTFT), decode `decode_tokens` one by one (each timed).
    prefill: clear the state, prefill (timed).
    decode: the state is filled with `prefill_tokens` once; each repetition decodes from that depth, then goes back.
    prefix: a prompt of `prefill_tokens` is prefilled from an empty state (timed), and again after the state of its
        first `prefix_tokens` was restored from a snapshot on the phone's storage (timed, with the restoring).
    """

    kind: WorkloadKind
    prefill_tokens: int = Field(ge=1)
    decode_tokens: int = Field(default=0, ge=0)
    prefix_tokens: int = Field(default=0, ge=0)

    @property
    def positions(self) -> int:
        """How much of the context it fills."""
        return self.prefill_tokens + self.decode_tokens

    @property
    def label(self) -> str:
        """How people call it."""
        if self.kind == "prefill":
            return f"prefill {self.prefill_tokens}"
        if self.kind == "turn":
            return f"prefill {self.prefill_tokens}, decode {self.decode_tokens}"
        if self.kind == "prefix":
            return f"prefix {self.prefix_tokens} of {self.prefill_tokens}"
        return f"decode {self.decode_tokens} at depth {self.prefill_tokens}"


class Gates(Wire):
    """What a phone must be like before a block; None asks for nothing.

    They are polled until all are met or `wait_seconds` are over; then the block runs all the same, and says so. What
    a phone does not let us read is neither met nor waited for: the block says that too.
    """

    battery_celsius: float | None = Field(default=35.0, description="At most")
    skin_celsius: float | None = Field(default=36.0, description="At most; the sensor SKIN")
    uncapped: bool = Field(default=True, description="Every policy's scaling_max_freq is its cpuinfo_max_freq")
    load_per_core: float | None = Field(default=None, ge=0, description="At most; the load of the last minute")
    battery_percent: int | None = Field(default=20, ge=0, le=100, description="At least")
    memory_available_bytes: int | None = Field(default=None, ge=0, description="At least")
    wait_seconds: float = Field(default=60.0, ge=0, le=7200)
    poll_seconds: float = Field(default=5.0, gt=0, le=600)


class Limits(Wire):
    """What makes a block unfit to count; None asks for nothing. Blocks are rejected, samples never.

    A rejected block is run again, at most `reruns` times; the last attempt counts, with its breaches on it.
    """

    frequency_cap: bool = Field(default=True, description="No policy's cap may drop during the block")
    skin_rise_celsius: float | None = Field(default=3.0, ge=0)
    drift: float | None = Field(default=0.05, ge=0, description="|median of the last third / of the first third - 1|")
    spread: float | None = Field(default=0.10, ge=0, description="Coefficient of variation of the repetitions' medians")
    foreign_cpu: float | None = Field(default=0.10, ge=0, description="Share of the used cores that others took")
    reruns: int = Field(default=0, ge=0, le=10)


class Protocol(Wire):
    """How to measure. Each block is a fresh process: load, warm up, then repetitions of every workload.

    The main workload is a turn of `prefill_tokens` and `decode_tokens`; budgets are judged by it. `prefill_lengths`,
    `decode_depths` and `prefix_lengths` add workloads; those that do not fit into a Program's context are left out, and
    said to be.
    Warm-up and repetitions last until both their count and their seconds are reached, or `max_seconds` are over.
    Peak memory, a cold load and the times of stages come from processes of their own, so that reading them disturbs
    no timing. Without values it is the preset `quick`. In JSON, {"preset": "standard", ...} starts from a preset.
    """

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema["properties"].update(
            preset={"enum": ["quick", "standard", "publication"], "description": "Where the other fields start from"}
        )
    )

    prefill_tokens: int = Field(default=128, ge=1)
    decode_tokens: int = Field(default=32, ge=1)
    prefill_lengths: tuple[int, ...] = Field(default=(), max_length=32, description="Further prompts, prefill only")
    decode_depths: tuple[int | Literal["full"], ...] = Field(
        default=(), max_length=32, description="Further positions to decode from; full is the end of the context"
    )
    prefix_lengths: tuple[int, ...] = Field(
        default=(),
        max_length=32,
        description="Prompts that begin with so many tokens of a snapshot: with and without it",
    )
    suffix_tokens: int = Field(default=16, ge=1, description="What follows such a prefix in the prompt")
    kv_cache: KvCache = Field(default="float32", description="How the Program keeps keys and values")
    warmup: int = Field(default=1, ge=0, le=1000)
    warmup_seconds: float = Field(default=0.0, ge=0, le=600)
    repetitions: int = Field(default=5, ge=1, le=1000)
    repetition_seconds: float = Field(default=0.0, ge=0, le=600)
    max_seconds: float | None = Field(
        default=None, gt=0, le=3600, description="Ends a workload after the repetition in which they are over"
    )
    blocks: int = Field(default=3, ge=1, le=1000)
    threads: int | None = Field(default=1, ge=1, le=256, description="None: one per core of `cores`")
    cores: CoreSet | tuple[int, ...] | None = Field(
        default=None, description="Pinned by `taskset`; None leaves placement to the phone's scheduler"
    )
    gates: Gates = Gates()
    limits: Limits = Limits()
    cool_down_seconds: float = Field(default=0.0, ge=0, le=3600, description="Between blocks, before the gate")
    settings: tuple[Setting, ...] = Field(default=(), description="Changed for the measurement, restored after it")
    cold_load: bool = Field(default=False, description="One more load, with the files dropped from the page cache")
    stage_times: bool = Field(default=False, description="One more pass that times each stage of the Program")
    memory_sample_ms: int = Field(default=10, ge=1, le=1000, description="How often the memory pass reads RSS and swap")
    sustained_minutes: int = Field(default=0, ge=0, le=120, description="After the blocks: decode on and on")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "preset" not in given:
            return given
        name, rest = given["preset"], {key: value for key, value in given.items() if key != "preset"}
        if name not in _PRESETS:
            raise ValueError(f"there is no preset {name!r}; there are {', '.join(_PRESETS)}")
        merged = dict(_PRESETS[name])
        for key, value in rest.items():
            base = merged.get(key)
            merged[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
        return merged

    @model_validator(mode="after")
    def _is_possible(self) -> "Protocol":
        lengths = (
            *self.prefill_lengths,
            *self.prefix_lengths,
            *(depth for depth in self.decode_depths if depth != "full"),
        )
        if any(length < 1 for length in lengths):
            raise ValueError("a length or a depth is at least 1 token")
        if isinstance(self.cores, tuple) and (not self.cores or min(self.cores) < 0 or max(self.cores) > 255):
            raise ValueError("cores are numbers of CPUs, from 0 to 255, at least one")
        if self.threads is None and self.cores is None:
            raise ValueError("threads can follow cores only where cores are named")
        if len(set(self.settings)) != len(self.settings):
            raise ValueError("a setting is named twice")
        return self

    @classmethod
    def preset(cls, name: Preset) -> "Protocol":
        """A Protocol that has a name."""
        return cls.model_validate({"preset": name})

    @property
    def name(self) -> str:
        """The preset that it is, or custom."""
        return next((name for name in _PRESETS if Protocol.model_validate({"preset": name}) == self), "custom")

    @property
    def main(self) -> Workload:
        """The workload that budgets are judged by."""
        return Workload(kind="turn", prefill_tokens=self.prefill_tokens, decode_tokens=self.decode_tokens)

    def further(self, context_length: int) -> tuple[Workload, ...]:
        """The other workloads, for a Program of this context length; `left_out` has those that do not fit."""
        return tuple(w for w in self._others(context_length) if w.positions <= context_length)

    def left_out(self, context_length: int) -> tuple[Workload, ...]:
        """The workloads that a Program of this context length cannot hold."""
        return tuple(w for w in self._others(context_length) if w.positions > context_length)

    def _others(self, context_length: int) -> list[Workload]:
        room = max(1, context_length - self.decode_tokens)
        depths = dict.fromkeys(room if depth == "full" else depth for depth in self.decode_depths)
        prefills = [Workload(kind="prefill", prefill_tokens=length) for length in dict.fromkeys(self.prefill_lengths)]
        decodes = [Workload(kind="decode", prefill_tokens=depth, decode_tokens=self.decode_tokens) for depth in depths]
        prefixes = [
            Workload(kind="prefix", prefill_tokens=length + self.suffix_tokens, prefix_tokens=length)
            for length in dict.fromkeys(self.prefix_lengths)
        ]
        return prefills + decodes + prefixes


_CALM = {"load_per_core": 0.3, "battery_percent": 30, "memory_available_bytes": 10**9}
_PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},  # ranks candidates within a search: minutes on a phone, waits for no load
    "standard": {  # compares Programs: warm, gated, rejected and run again
        "prefill_lengths": (512,),
        "decode_depths": (1024,),
        "warmup": 3,
        "warmup_seconds": 0.5,
        "repetitions": 10,
        "repetition_seconds": 1.0,
        "max_seconds": 60.0,
        "blocks": 5,
        "gates": {**_CALM, "wait_seconds": 600.0},
        "limits": {"reruns": 2},
        "cool_down_seconds": 10.0,
        "settings": ("stay-awake",),
        "cold_load": True,
    },
    "publication": {  # what others may quote: minibench's, MLPerf's and Pipette's rules together (docs/measuring.md)
        "prefill_lengths": (512, 1024, 4096),
        "decode_depths": (1024, 4096, 32_768, "full"),
        "warmup": 10,
        "warmup_seconds": 0.5,
        "repetitions": 50,
        "repetition_seconds": 2.0,
        "max_seconds": 60.0,
        "blocks": 5,
        "cores": "big",
        "threads": None,
        "gates": {**_CALM, "wait_seconds": 1800.0, "poll_seconds": 10.0},
        "limits": {"reruns": 2},
        "cool_down_seconds": 30.0,
        "settings": ("airplane-mode", "stay-awake", "fixed-performance", "screen-off"),
        "cold_load": True,
        "stage_times": True,
        "sustained_minutes": 10,
    },
}
