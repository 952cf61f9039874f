"""What the API shows: the bodies of its answers, and the requests that are no wire types of the agent."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, computed_field

from device_agent.contracts import (
    CheckStep,
    Fault,
    Generation,
    HealthItem,
    PhoneFacts,
    PhoneState,
    Profile,
    Program,
    Route,
    Sha256,
    Vitals,
    WorkerProcess,
)
from device_agent.contracts.base import MAX_TEXT
from search.candidate import Candidate, Verdict
from search.spec import SearchSpec
from server.headlines import KINDS, Reading, notes
from server.runs import MetricPoint, Progress, RunSpec, StageRecord, StageRequest, TokenCheck, WorkState
from trainer.architecture import Architecture

TextFormat = Literal["text", "jsonl", "parquet"]
EventType = Literal["search", "candidate", "phone", "run", "job"]


class View(BaseModel):
    """An answer of the API. Readers ignore fields that a newer server adds."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Request(BaseModel):
    """A body sent to the API; a field that nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_max_length=MAX_TEXT)


class Health(View):
    """The answer of `/healthz` and `/readyz`."""

    status: Literal["ok"] = "ok"


class AgentGreeting(View):
    """The answer to an agent's report: how often to report, and which phones' health to check now."""

    poll_seconds: float
    check: tuple[str, ...] = ()


PhoneName = Annotated[str, Field(pattern=r"^[A-Za-z0-9 ._\-]{1,64}$")]
Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9._\-]{1,64}$")]
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
Note = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class PhoneRegistration(Request):
    """The body of `POST /v1/phones`. What is left out stays as it is on a phone that is registered already."""

    serial: str = Field(pattern=r"^[A-Za-z0-9._:\-]{1,128}$")
    name: PhoneName | None = None
    group: Group | None = None
    tags: tuple[Tag, ...] = Field(default=(), max_length=32)
    note: Note | None = None


class PhoneChange(Request):
    """The body of `PATCH /v1/phones/{serial}`: what is left out stays, and null takes away."""

    name: PhoneName | None = None
    group: Group | None = None
    note: Note | None = None
    add_tags: tuple[Tag, ...] = Field(default=(), max_length=32)
    remove_tags: tuple[Tag, ...] = Field(default=(), max_length=32)


class Maintenance(Request):
    """The body of `POST /v1/phones/{serial}/maintenance`."""

    reason: Note = Field(default="", description="What is done to the phone, for those who wonder why it does not work")


class HealthView(View):
    """A phone's last health check."""

    started_at: AwareDatetime
    passed: bool
    items: tuple[HealthItem, ...]


class PhoneJob(View):
    """The job that a phone holds now."""

    kind: str
    id: str


class SelfCheckView(View):
    """A self-check of a phone: `passed` only when every step was made and held."""

    id: str
    serial: str
    state: Literal["preparing", "queued", "running", "passed", "failed"]
    created_at: AwareDatetime
    finished_at: AwareDatetime | None
    runner: str | None = Field(description="Runner id and ExecuTorch version that ran it")
    runner_bundle: Sha256 | None = Field(description="Hash of the runner's manifest")
    executorch: str | None
    steps: tuple[CheckStep, ...]
    fault: Fault | None = Field(description="Why there was no result at all")
    waiting: str | None = Field(default=None, description="What keeps a queued check from running")
    fingerprint: str | None = Field(default=None, description="The Android build that it was made on")
    outdated: bool = Field(
        default=False, description="Made on another Android build, or another phone, than is there now"
    )

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties (python/mypy#1362)
    @property
    def passed(self) -> bool:
        """Whether the phone's figures count."""
        return self.state == "passed" and not self.outdated

    @property
    def finished(self) -> bool:
        """Whether nothing follows."""
        return self.state in ("passed", "failed")


class PhoneView(View):
    """One phone of the fleet, or one that an agent sees and nobody registered."""

    serial: str
    name: str | None
    registered: bool
    state: PhoneState
    facts: PhoneFacts | None
    fault: Fault | None = Field(description="Why it is not ready")
    agent: str | None
    last_seen: AwareDatetime | None
    job: PhoneJob | None
    tags: tuple[str, ...]
    group: str | None = None
    note: str | None = None
    via: Route | None = Field(default=None, description="How its agent found it, when nobody named it there")
    probed_at: AwareDatetime | None = Field(default=None, description="When its agent last tried a round trip")
    vitals: Vitals | None = None
    health: HealthView | None = None
    worker: WorkerProcess | None = Field(default=None, description="The process that works for it")
    virtual: bool | None = Field(description="Its milliseconds are its host's; None until it was seen")
    self_check: SelfCheckView | None = Field(default=None, description="The last finished check, or else the open one")


class ArtifactView(View):
    """Stored bytes."""

    sha256: Sha256
    size: int = Field(description="Bytes")


class CorpusFile(Request):
    """One file of a corpus: an uploaded artifact, and how to read it."""

    sha256: Sha256
    format: TextFormat
    field: str | None = Field(default=None, max_length=128, description="Field or column with the text; default `text`")
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9 ._\-]{1,128}$", description="Only shown, never a path")


class CorpusSpec(Request):
    """The body of `POST /v1/corpora`."""

    name: str = Field(pattern=r"^[A-Za-z0-9 ._\-]{1,64}$")
    files: tuple[CorpusFile, ...] = Field(min_length=1, max_length=10_000)


class CorpusView(View):
    """A registered corpus; equal files give the same id."""

    id: str
    name: str
    files: tuple[CorpusFile, ...]
    bytes: int
    created_at: AwareDatetime


class Counts(View):
    """Candidates of a search; `done` and `failed` are final, `feasible` is a part of `done`."""

    proposed: int = 0
    done: int = 0
    failed: int = 0
    feasible: int = 0


class SearchView(View):
    """One search."""

    id: str
    name: str
    state: WorkState
    spec: SearchSpec
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    progress: Progress
    verdict: Verdict | None
    fault: Fault | None
    attempts: int = Field(description="Tries in a row that came no further, the present one among them")
    counts: Counts


class CandidateView(Candidate):
    """A candidate with its place: while the search runs, `on_front` means the front so far."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    on_front: bool
    winner: bool

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties (python/mypy#1362)
    @property
    def feasible(self) -> bool:
        """Done, and within every budget."""
        return super().feasible


class StageView(StageRecord):
    """One stage of a run, and how its figures are read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lever: int = Field(description="Number of the lever that it pulls; the search is the first")
    title: str = Field(description="The stage in words")
    counted: str = Field(description="What its way, and the points of its metrics, are counted in: tokens or seeds")
    headline: Reading = Field(description="The figure that the lever is pulled for")
    forgetting: Reading | None = Field(description="Plain held-out text meanwhile, where that is not the headline")
    notes: tuple[str, ...] = Field(description="What must be known to read the headline")

    @classmethod
    def of(cls, record: StageRecord, request: StageRequest) -> "StageView":
        """What happened, read by what was asked for."""
        kind, whose = KINDS[record.name], request.options.get("of")
        return cls(
            **dict(record),
            lever=kind.lever,
            title=f"{kind.title} of the {whose}" if whose == "teacher" else kind.title,
            counted=kind.counted,
            headline=kind.headline(record.before, record.after),
            forgetting=kind.forgetting(record.before, record.after),
            notes=notes(record.name, request.options, record.after),
        )


class RunView(View):
    """One run."""

    id: str
    name: str
    state: WorkState
    spec: RunSpec
    candidate: int
    architecture: Architecture
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    progress: Progress
    stages: tuple[StageView, ...]
    program: Program | None
    profiles: dict[str, Profile]
    generation: Generation | None
    check: TokenCheck | None
    text: str | None = Field(description="The prompt's continuation, as the phone made it")
    fault: Fault | None
    attempts: int = Field(description="Tries in a row that came no further, the present one among them")


class StageMetrics(View):
    """What one stage of a run told of itself; never more than 1,000 points, thinned evenly with its ends kept."""

    position: int = Field(description="Of the stage in its run, from 0")
    name: str
    points: tuple[MetricPoint, ...] = Field(description="By rising tokens")


class EventView(View):
    """One change, as `GET /v1/events` tells it: what changed, not how; read it again."""

    type: EventType
    id: str
    search: str | None = None


class ProblemItem(View):
    """One mistake in a request: where (a JSON pointer into the body, or the parameter's name), and what."""

    pointer: str
    detail: str


class Problem(View):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    advice: str = ""
    errors: tuple[ProblemItem, ...] = ()
