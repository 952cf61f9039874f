"""Problems with verifiable answers, and what answers to them are worth. Free of torch."""

from typing import Annotated

from pydantic import Field

from trainer.rewards.arithmetic import Arithmetic
from trainer.rewards.code import Code
from trainer.rewards.competition import Competition
from trainer.rewards.gym import GymLevel, ReasoningGym
from trainer.rewards.ladder import FilelessLadder, Ladder
from trainer.rewards.problem import Problem, ProblemError, Tasks, Verifier, drawn, is_held_out, number_of
from trainer.rewards.programs import Programs
from trainer.rewards.shaping import Answered, Correct, Format, Length, Repetition, Reward, total

AnyTasks = Annotated[Arithmetic | ReasoningGym | Competition | Programs | Code | Ladder, Field(discriminator="kind")]
"""Tasks as they are written in JSON, told apart by `kind`."""
FilelessTasks = Annotated[Arithmetic | ReasoningGym | Programs | FilelessLadder, Field(discriminator="kind")]
"""Those of them that read no files."""

__all__ = [
    "Answered",
    "AnyTasks",
    "Arithmetic",
    "Code",
    "Competition",
    "Correct",
    "FilelessLadder",
    "FilelessTasks",
    "Format",
    "GymLevel",
    "Ladder",
    "Length",
    "Problem",
    "ProblemError",
    "Programs",
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
