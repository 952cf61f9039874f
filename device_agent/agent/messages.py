"""What the agent and the process of a phone say to each other: one JSON object a line.

The agent writes to the process's standard input: first its `Orders`, then a `Word` now and then. Its end without a
`stop` means that the agent is gone. The process writes `News` to its standard output.
"""

from pathlib import Path

from pydantic import Field

from device_agent.contracts import Route, Sighting
from device_agent.contracts.base import Wire
from device_agent.vitals import BatteryPolicy


class Orders(Wire):
    """All that the process of one phone needs to know. It comes through a pipe, where no list of processes shows it."""

    agent_pid: int
    serial: str
    via: Route | None
    server: str
    token: str | None = Field(repr=False)
    name: str
    incarnation: str
    home: Path
    runner: Path | None
    key_path: Path
    probe_seconds: float
    process_seconds: float
    job_seconds: float
    max_rss_bytes: int
    check_jobs: int
    check_seconds: float
    min_free_bytes: int
    battery: BatteryPolicy


class Word(Wire):
    """From the agent: how long to wait between questions for work; that outcomes were delivered; to check; to stop."""

    poll_seconds: float | None = None
    delivered: bool = False
    check: bool = False
    stop: bool = False


class Held(Wire):
    """The lease that a process works under."""

    job_id: str
    epoch: int
    secret: str = Field(repr=False)


class News(Wire):
    """From a process, whenever it begins something: what it knows of its phone, and when to expect the next word."""

    sighting: Sighting
    patience: float = Field(gt=0, description="Seconds after which a silent process hangs")
    held: Held | None = None
    outcome: bool = Field(default=False, description="The outbox holds something new")
