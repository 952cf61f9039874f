"""What a phone is, how it fares, and how an agent tells the server of it."""

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from device_agent.contracts.base import Wire
from device_agent.contracts.errors import Fault

Route = Literal["tcp", "usb", "adb-server"]


class PhoneState(StrEnum):
    """What the last end-to-end probe proved of a phone, and what keeps a proved phone from work.

    An agent reports the first five; the others are the server's.
    """

    UNPROVEN = "unproven"
    READY = "ready"
    RESTING = "resting"  # it answers, but its battery is outside the agent's policy; it comes back by itself
    UNAUTHORISED = "unauthorised"
    UNREACHABLE = "unreachable"
    QUARANTINED = "quarantined"  # by the server, after its own faults
    MAINTENANCE = "maintenance"  # by hand
    SILENT = "silent"  # its agent has stopped reporting, so that what it said is worth nothing


class PhoneFacts(Wire):
    """What a phone says of itself; a value that could not be read is None, never a guess."""

    model: str
    manufacturer: str | None = None
    soc: str | None = None
    android: str | None = None
    sdk: int | None = None
    fingerprint: str | None = None
    abi: str | None = None
    cores: int | None = None
    cluster_max_khz: dict[str, int] = Field(default_factory=dict, description="cpufreq policy to its highest clock")
    cluster_cores: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="cpufreq policy to the cores that share its clock (related_cpus)"
    )
    memory_bytes: int | None = None
    free_bytes: int | None = Field(default=None, description="Free space where Programs are pushed")
    serialno: str | None = Field(default=None, description="ro.serialno: the same on every way that leads to it")
    virtual: bool = Field(description="A program of some host that speaks ADB: its milliseconds are that host's")


class Vitals(Wire):
    """How a phone fares now; read at every probe. What could not be read is None."""

    taken_at: AwareDatetime
    battery_percent: int | None = None
    battery_celsius: float | None = None
    battery_health: int | None = Field(default=None, description="BatteryManager.BATTERY_HEALTH_*: 2 is good")
    charging: bool | None = None
    free_bytes: int | None = Field(default=None, description="Free space where Programs are pushed")
    boot: str | None = Field(default=None, description="The kernel's boot_id: another one after a reboot")


class HealthItem(Wire):
    """One thing that a health check looks at."""

    name: Literal["storage", "space", "battery"]
    passed: bool
    detail: str


class HealthCheck(Wire):
    """What a health check found; a phone that failed one is quarantined until it passes one, or is released."""

    started_at: AwareDatetime
    items: tuple[HealthItem, ...] = Field(min_length=1)

    @property
    def passed(self) -> bool:
        """Whether every item passed."""
        return all(item.passed for item in self.items)


class WorkerProcess(Wire):
    """The process of the agent that works for one phone."""

    pid: int
    started_at: AwareDatetime
    restarts: int = Field(ge=0, description="How often the agent had to start it again")
    rss_bytes: int | None = None


class Sighting(Wire):
    """One phone as its agent sees it now: `state` is READY only after the probe's nonce came back."""

    serial: str = Field(pattern=r"^[A-Za-z0-9._:\-]{1,128}$")
    state: PhoneState
    facts: PhoneFacts | None = None
    fault: Fault | None = None
    probed_at: AwareDatetime
    via: Route | None = Field(default=None, description="How the agent found it, when it was not named by hand")
    vitals: Vitals | None = None
    health: HealthCheck | None = Field(default=None, description="The last check of this agent")
    worker: WorkerProcess | None = None


class AgentReport(Wire):
    """What an agent sends every few seconds. `incarnation` is new at every start of the agent."""

    incarnation: str = Field(pattern=r"^[0-9a-f]{32}$")
    version: str
    host: str
    phones: tuple[Sighting, ...]
