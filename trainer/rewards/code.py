"""Problems whose answers are programs: they are run, shut in, and their tests call them (`trainer.sandbox`)."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.rewards.problem import Problem
from trainer.rewards.rows import OfFiles
from trainer.sandbox import program, run

_LONGEST_ANSWER = 1 << 16  # characters of it that may be a program


class Tested(BaseModel):
    """A verifier: an answer's Python (its last fenced block, or all of it) is right if it passes `Problem.answer`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(default=5.0, gt=0, le=60, description="Of processor, an answer may take")
    memory_mb: int = Field(default=512, ge=64, le=4096, description="An answer may take")

    def score(self, problem: Problem, text: str) -> float:
        """See `Verifier`.

        Raises:
            SandboxError: this host cannot shut code in.
        """
        if len(text) > _LONGEST_ANSWER or "\0" in text:
            return 0.0
        ran = run(program(text), problem.answer, seconds=self.seconds, memory=self.memory_mb << 20)
        return float(ran.passed)

    def scores(self, asked: Sequence[tuple[Problem, str]]) -> list[float]:
        """See `Verifier`; as many at once as there are cores, and what a group says twice is run once."""
        distinct = list(dict.fromkeys(asked))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = dict(zip(distinct, pool.map(lambda pair: self.score(*pair), distinct), strict=True))
        return [found[pair] for pair in asked]


class Code(OfFiles, Tested):
    """Rows {"problem": ..., "tests": "assert f(2) == 4"} of JSONL files; further keys are ignored."""

    columns: ClassVar[tuple[str, str]] = ("problem", "tests")

    kind: Literal["code"] = "code"
