"""Problems with verifiable answers, and what answers to them are worth. Free of torch."""

from typing import Annotated

from pydantic import Field

from trainer.rewards.arithmetic import Arithmetic
from trainer.rewards.competition import Competition
from trainer.rewards.gym import GymLevel, ReasoningGym
from trainer.rewards.problem import Problem, ProblemError, Tasks, Verifier, drawn, is_held_out, number_of
from trainer.rewards.shaping import Answered, Correct, Format, Length, Repetition, Reward, total

AnyTasks = Annotated[Arithmetic | ReasoningGym | Competition, Field(discriminator="kind")]
"""Tasks as they are written in JSON, told apart by `kind`."""

__all__ = [
    "Answered",
    "AnyTasks",
    "Arithmetic",
    "Competition",
    "Correct",
    "Format",
    "GymLevel",
    "Length",
    "Problem",
    "ProblemError",
    "ReasoningGym",
    "Repetition",
    "Reward",
    "Tasks",
    "Verifier",
    "drawn",
    "is_held_out",
    "number_of",
    "total",
]
