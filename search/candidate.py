"""A Candidate: an Architecture in a search, with everything that is known of it so far."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from device_agent.contracts import Fault, Profile, Sha256
from trainer.architecture import Architecture


class Phase(StrEnum):
    """Where a candidate is. DONE has values; FAILED has a fault; both are final."""

    PROPOSED = "proposed"
    EXPORTED = "exported"
    MEASURED = "measured"
    DONE = "done"
    FAILED = "failed"


class Quality(BaseModel):
    """The score of a short proxy training on real text: lower is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits_per_byte: float = Field(description="On held-out text, log2 loss summed over tokens / UTF-8 bytes")
    tokens: int = Field(description="Tokens trained on")


class BlockTimes(BaseModel):
    """What each block of a composed Program took, in the order of its stages: medians in milliseconds.

    From a pass of its own with a clock around every block, so that their sum is a little more than the whole takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefill_ms: tuple[float, ...]
    decode_ms: tuple[float, ...]


class Predicted(BaseModel):
    """What the search expected of a candidate on a phone before the phone ran it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decode_ms: float
    ttft_ms: float
    seen: float = Field(description="Share of its blocks whose dimensions the phone had run before")


class Candidate(BaseModel):
    """One row of the ledger, written after every step; `number` is its trial's number in the study.

    `profiles`, `values` and `violations` are of the first measurement, and stay so. The race of the finalists adds
    `linked`, and `confirmed` or `confirm_fault`, and changes nothing else that the study knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    params: dict[str, int | float | str]
    architecture: Architecture
    parameters: int
    phase: Phase = Phase.PROPOSED
    program: Sha256 | None = Field(default=None, description="Composed of blocks; by it the search measures")
    linked: Sha256 | None = Field(
        default=None, description="A finalist's: the same blocks as one file; by it the second measurement is made"
    )
    profiles: dict[str, Profile] = Field(default_factory=dict, description="By phone serial")
    blocks: dict[str, BlockTimes] = Field(
        default_factory=dict, description="By phone serial, where the protocol times stages"
    )
    predicted: dict[str, Predicted] = Field(
        default_factory=dict, description="By phone serial, from the blocks of the candidates before it"
    )
    quality: Quality | None = None
    values: tuple[float, ...] | None = Field(default=None, description="What the study was told, all minimised")
    violations: dict[str, float] = Field(
        default_factory=dict, description="Budget to relative excess on the worst phone; above 0 breaks it"
    )
    fault: Fault | None = None
    confirmed: dict[str, Profile] = Field(
        default_factory=dict, description="A finalist's second measurement, by phone serial"
    )
    confirm_fault: Fault | None = Field(
        default=None, description="Why a finalist lost: it failed when it was measured again"
    )
    seconds: dict[str, float] = Field(
        default_factory=dict,
        description="By part: build, export, push, run, score, and link and confirm for a finalist",
    )

    @property
    def feasible(self) -> bool:
        """Done, and within every budget by its first measurement."""
        return self.phase is Phase.DONE and all(excess <= 0 for excess in self.violations.values())

    @property
    def finalist(self) -> bool:
        """It was measured again on every phone, or failed on one."""
        return self.confirm_fault is not None or bool(self.confirmed and self.confirmed.keys() >= self.profiles.keys())

    @property
    def judged(self) -> dict[str, Profile]:
        """What a verdict goes by, by phone serial: the second measurement where there is one, else the first."""
        return self.confirmed if self.finalist and self.confirm_fault is None else self.profiles


class BudgetReport(BaseModel):
    """How one budget bears on the outcome, by the second measurement of those that were measured again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: str
    bound: float
    winner_value: float | None = Field(description="On the worst phone; None without a winner")
    keeps_probability: float | None = Field(description="Probability that the winner keeps the bound, over blocks")
    best_value: float | None = Field(description="The lowest any candidate reached, unless it failed later")
    excluded: int = Field(description="Candidates that break this budget")
    binding: bool = Field(description="Without this budget another candidate would win")


class Verdict(BaseModel):
    """How a search ended: the front, at most one winner, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    front: tuple[int, ...] = Field(
        description="Numbers of the feasible candidates that no feasible one dominates, by their first measurements"
    )
    winner: int | None
    budgets: tuple[BudgetReport, ...]
    why: str
