"""The self-check: what a phone must show before its figures count."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, model_validator

from device_agent.contracts.base import Wire
from device_agent.contracts.program import Sha256


class Golden(Wire):
    """What the eager model says along fixed tokens, and how far an exported Program may be from it.

    The first `prefill` tokens are fed at once, the others one by one; a row of logits [vocab] follows each.
    """

    tokens: Annotated[tuple[int, ...], Field(min_length=2)]
    prefill: int = Field(ge=1)
    logits: Annotated[tuple[tuple[float, ...], ...], Field(min_length=1)]
    bound: float = Field(gt=0, description="Largest allowed difference of any logit; see search.export.golden")

    @model_validator(mode="after")
    def _require_a_row_per_feed(self) -> "Golden":
        if self.prefill > len(self.tokens) or len(self.logits) != len(self.tokens) - self.prefill + 1:
            raise ValueError("there is not one row of logits for the prefill and for each token after it")
        return self


class CheckName(StrEnum):
    """The steps, in their order; a step that fails ends the check."""

    RUNNER = "runner"
    PUSH = "push"
    HASH = "hash"
    LOAD = "load"
    GOLDEN = "golden"
    TIMING = "timing"
    MEMORY = "memory"


class CheckStep(Wire):
    """One step: whether it held, in words, and its figures (milliseconds, bytes, logits, as their names say)."""

    name: CheckName
    ok: bool
    message: str
    figures: dict[str, float] = Field(default_factory=dict)


class SelfCheck(Wire):
    """What a phone showed. `runner` is None when none of the agent's fits."""

    program: Sha256
    golden: Sha256 = Field(description="Hash of the Golden that it was held against")
    serial: str
    virtual: bool
    runner: str | None = Field(description="Runner id and ExecuTorch version that ran it")
    runner_bundle: Sha256 | None = Field(description="Hash of the runner's manifest")
    executorch: str | None
    fingerprint: str | None = Field(default=None, description="The Android build that it was made on")
    steps: Annotated[tuple[CheckStep, ...], Field(min_length=1)]
    taken_at: AwareDatetime

    @property
    def passed(self) -> bool:
        """Every step was made, in order, and held."""
        return [step.name for step in self.steps] == list(CheckName) and all(step.ok for step in self.steps)
