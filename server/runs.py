"""What a Run is asked to do, and what it found: the values that the worker writes and the API shows."""

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from server.stage_options import RunName, check
from trainer.options import Lever, Made

StageName = Literal["teacher", "pretrain", "extend", "synthesise", "sft", "merge", "preference", "rl", "qat", "ptq"]

TRIES = 3  # at one search or run in a row, when its worker is killed or the world fails and it comes no further

_ARTIFACTS = ("data", "specialists", "prompts", "pairs")  # options that name uploaded files

_UNTRAINED = {"ptq": "calibration_windows", "synthesise": "a limit of seeds"}


class WorkState(StrEnum):
    """Where a search, a run or a stage is. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in (WorkState.SUCCEEDED, WorkState.FAILED, WorkState.CANCELLED)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Progress(_Value):
    """How far a piece of work is: `done` of `total` steps of its own kind, 0 of 0 before it knows."""

    message: str = ""
    done: int = 0
    total: int = 0


class StageRequest(_Value):
    """One lever to pull; what is left out takes the stage's default for the architecture at hand."""

    name: StageName
    tokens: int | None = Field(default=None, ge=1, le=10**15, description="Tokens to train on")
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="By name: learning_rate, schedule, distillation, scales, ...; see docs/runs.md",
    )

    @model_validator(mode="after")
    def _options_are_known(self) -> "StageRequest":
        if "tokens" in self.options:
            raise ValueError("tokens stand beside the options of a stage, not among them")
        if self.name in _UNTRAINED and self.tokens is not None:
            raise ValueError(f"the stage {self.name} trains on no tokens; it has {_UNTRAINED[self.name]}")
        check(self.name, self.options)
        return self

    @property
    def lever(self) -> Lever:
        """The options, as the stage's own."""
        return check(self.name, self.options)

    @property
    def teacher(self) -> RunName | None:
        """The run whose model is to teach, if one is named."""
        named = self.options.get("teacher")
        return RunName.parse(named) if isinstance(named, str) else None

    @property
    def artifacts(self) -> dict[str, tuple[str, ...]]:
        """The sha256 of each uploaded file that an option names; OPTION/PART where an option has several parts."""
        named: dict[str, JsonValue] = {}
        for option in _ARTIFACTS:
            value = self.options.get(option)
            named |= (
                {f"{option}/{part}": of for part, of in value.items()} if isinstance(value, dict) else {option: value}
            )
        return {
            option: (value,) if isinstance(value, str) else tuple(map(str, value))
            for option, value in named.items()
            if value and isinstance(value, str | list | tuple)
        }


def _all_stages() -> tuple[StageRequest, ...]:
    return (StageRequest(name="teacher"), StageRequest(name="pretrain"), StageRequest(name="qat"))


class RunSpec(_Value):
    """The body of `POST /v1/runs`: train one candidate of a search, on the search's corpus."""

    search: str = Field(pattern=r"^[^\x00]{1,128}$", description="Id of a search")
    candidate: int | None = Field(default=None, ge=0, lt=2**31, description="Number of a candidate; None is the winner")
    name: str = Field(default="run", pattern=r"^[A-Za-z0-9 ._\-]{1,64}$")
    stages: tuple[StageRequest, ...] = Field(default_factory=_all_stages, min_length=1)
    prompt: str = Field(default="def __init__(self", min_length=1, max_length=10_000)
    new_tokens: int = Field(default=32, ge=1, le=4096)
    phone: str | None = Field(
        default=None,
        pattern=r"^[^\x00]{1,128}$",
        description="Serial of a registered phone; None is the search's first",
    )


class StageRecord(_Value):
    """One stage of a run: its figures before and after, and the checkpoint or the conversations it left."""

    name: str
    makes: Made = Field(default="model", description="What later stages find of it")
    state: WorkState = WorkState.QUEUED
    before: dict[str, float] = Field(default_factory=dict)
    after: dict[str, float] = Field(default_factory=dict)
    seconds: float | None = None
    checkpoint: str | None = Field(default=None, description="Path inside the run's directory")
    data: str | None = Field(default=None, description="Path of conversations inside the run's directory")

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, given: object) -> object:
        """They wrote down the name alone, and had one stage that makes no model."""
        return {"makes": "teacher", **given} if isinstance(given, dict) and given.get("name") == "teacher" else given


class MetricPoint(_Value):
    """What a stage told of itself after so many tokens."""

    tokens: int = Field(description="Trained on so far, in this stage")
    at: AwareDatetime
    values: dict[str, float | None] = Field(
        description="By name: loss, bits_per_byte, tokens_per_second, ...; null for what was no finite number"
    )


class NearTie(_Value):
    """A position where phone and PyTorch chose different tokens, though their logits almost tie."""

    position: int
    phone_token: int
    eager_token: int
    logit_gap: float = Field(description="Eager logit of its own choice minus that of the phone's choice")
    bound: float = Field(description="The largest gap that counts as a tie")


class TokenCheck(_Value):
    """Whether the tokens of the phone are those of the same quantised model in PyTorch."""

    tokens: int
    agreed: int
    near_ties: tuple[NearTie, ...] = ()
    max_logit_difference: float
    passed: bool
