"""What a phone is, and how an agent tells the server of it."""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from device_agent.contracts.base import Wire
from device_agent.contracts.errors import Fault


class PhoneState(StrEnum):
    """What the last end-to-end probe proved of a phone."""

    UNPROVEN = "unproven"
    READY = "ready"
    UNAUTHORISED = "unauthorised"
    UNREACHABLE = "unreachable"
    QUARANTINED = "quarantined"


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
    memory_bytes: int | None = None
    free_bytes: int | None = Field(default=None, description="Free space where Programs are pushed")
    virtual: bool = Field(description="A program of some host that speaks ADB: its milliseconds are that host's")


class Sighting(Wire):
    """One phone as its agent sees it now: `state` is READY only after the probe's nonce came back."""

    serial: str = Field(pattern=r"^[A-Za-z0-9._:\-]{1,128}$")
    state: PhoneState
    facts: PhoneFacts | None = None
    fault: Fault | None = None
    probed_at: AwareDatetime


class AgentReport(Wire):
    """What an agent sends every few seconds. `incarnation` is new at every start of the agent."""

    incarnation: str = Field(pattern=r"^[0-9a-f]{32}$")
    version: str
    host: str
    phones: tuple[Sighting, ...]
