"""Work for a phone: the job, its lease, and its outcome.

A job is leased to one agent with an epoch and a secret; the outcome is taken once, and only from the holder.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from device_agent.contracts.base import Wire
from device_agent.contracts.errors import Fault
from device_agent.contracts.measurement import Generation, Measurement
from device_agent.contracts.program import Program
from device_agent.contracts.protocol import Protocol
from device_agent.contracts.selfcheck import Golden, SelfCheck


class MeasureJob(Wire):
    """Measure a Program."""

    kind: Literal["measure"] = "measure"
    program: Program
    protocol: Protocol


class GenerateJob(Wire):
    """Continue a prompt greedily.

    `prefix_tokens` is how many of the prompt's first tokens other prompts share (a system prompt, earlier turns): the
    longest snapshot of them that the phone has is restored, and one of all of them is kept for the next time.
    """

    kind: Literal["generate"] = "generate"
    program: Program
    prompt: tuple[int, ...] = Field(min_length=1)
    new_tokens: int = Field(ge=1)
    prefix_tokens: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _prefix_is_of_the_prompt(self) -> "GenerateJob":
        if self.prefix_tokens > len(self.prompt):
            raise ValueError(f"a prefix of {self.prefix_tokens} tokens in a prompt of {len(self.prompt)}")
        return self


class CheckJob(Wire):
    """Show that the phone, its link and its runner can be trusted: run a tiny Program whose logits are known."""

    kind: Literal["check"] = "check"
    program: Program
    golden: Golden


Job = Annotated[MeasureJob | GenerateJob | CheckJob, Field(discriminator="kind")]


class LeaseRequest(Wire):
    """An agent's question: is there work for one of these phones?"""

    agent: str = Field(pattern=r"^[A-Za-z0-9._\-]{1,64}$")
    incarnation: str = Field(pattern=r"^[0-9a-f]{32}$")
    serials: tuple[str, ...] = Field(min_length=1)


class Lease(Wire):
    """The right to run one job on one phone, until it lapses `seconds` after the last heartbeat."""

    job_id: str
    serial: str
    epoch: int
    secret: str
    seconds: float
    job: Job


class LeaseHeartbeat(Wire):
    """Keeps a lease alive."""

    epoch: int
    secret: str


class LeaseState(Wire):
    """The answer to a heartbeat: the holder stops when `cancelled`."""

    cancelled: bool
    seconds: float


class Success(Wire):
    """The job was done."""

    kind: Literal["success"] = "success"
    result: Annotated[Measurement | Generation | SelfCheck, Field(union_mode="left_to_right")]


class Failure(Wire):
    """The job was not done, and who can mend it."""

    kind: Literal["failure"] = "failure"
    fault: Fault


JobOutcome = Annotated[Success | Failure, Field(discriminator="kind")]


class LeaseResult(Wire):
    """The outcome, with the proof of who holds the lease."""

    epoch: int
    secret: str
    outcome: JobOutcome
