"""What an example must be to stay: each filter sees what the ones before it left, and says why something goes.

`of` names the value that is looked at: of a step, usually the last.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trainer.chat import Message
from trainer.cleaners.contamination import Contamination
from trainer.cleaners.duplicates import NearDuplicates
from trainer.cleaners.words import Words
from trainer.generation.params import SamplingParams
from trainer.rewards import AnyTasks
from trainer.rewards.numbers import last_number
from trainer.sandbox import program, run
from trainer.sources import Source
from trainer.synthesis.candidate import Candidate
from trainer.synthesis.templates import filled, places, warning
from trainer.tutors import Question, Tutor, Usage

_SCORE = re.compile(r"<score>\s*(-?\d{1,6})\s*</score>")
_CLOSE = 0.7  # below it, two texts are no duplicates in any sense


class Tools:
    """What filters need beside the examples, and remember from one block of them to the next."""

    def __init__(self, tutor: Tutor, judge: Tutor, tasks: AnyTasks | None, heard: Callable[[Usage], None]) -> None:
        self.tutor, self.judge, self.tasks, self.heard = tutor, judge, tasks, heard
        self.near: NearDuplicates | None = None
        self.known: dict[str, Contamination] = {}


class _Filter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def templates(self) -> tuple[str, ...]:
        """What must name values that there are."""
        return (f"{{{self.of}}}",) if hasattr(self, "of") else ()

    @property
    def title(self) -> str:
        """In reports."""
        kind: str = self.kind  # type: ignore[attr-defined]  # every filter has one, of its own type
        return f"{kind} {self.of}" if hasattr(self, "of") else kind

    def identity(self) -> str:
        """What determines the verdicts beyond the fields."""
        return ""


class Length(_Filter):
    """Characters within bounds."""

    kind: Literal["length"] = "length"
    of: str
    shortest: int = Field(default=1, ge=0)
    longest: int = Field(default=20_000, ge=1)

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:  # noqa: ARG002
        """Why each goes, or None."""

        def verdict(length: int) -> str | None:
            return "too short" if length < self.shortest else "too long" if length > self.longest else None

        return [verdict(len(candidate.values[self.of])) for candidate in candidates]


class Pattern(_Filter):
    """A regular expression that must, or must not, be found."""

    kind: Literal["format"] = "format"
    of: str
    must: str | None = None
    must_not: str | None = None

    @field_validator("must", "must_not")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as wrong:
            raise ValueError(f"no regular expression: {wrong}") from wrong
        return pattern

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:  # noqa: ARG002
        """See `Length`."""

        def verdict(text: str) -> str | None:
            if self.must is not None and not re.search(self.must, text):
                return "lacks what it must have"
            return "has what it must not" if self.must_not is not None and re.search(self.must_not, text) else None

        return [verdict(candidate.values[self.of]) for candidate in candidates]


class Verified(_Filter):
    """The seed's own verifier finds the answer right."""

    kind: Literal["verifier"] = "verifier"
    of: str

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:
        """See `Length`."""
        assert tools.tasks is not None, "a recipe of problems has tasks"
        return [
            None if candidate.seed.problem and tools.tasks.score(candidate.seed.problem, candidate.values[self.of]) >= 1
            else "wrong"
            for candidate in candidates
        ]  # fmt: skip


class Code(_Filter):
    """The answer's Python (its last fenced block, or all of it) runs to its end, and passes the tests."""

    kind: Literal["code"] = "code"
    of: str
    tests: str = Field(default="", description="Python, with places for values; others' values may be used raw")
    seconds: float = Field(default=5.0, gt=0, le=600)
    memory_mb: int = Field(default=512, ge=64, le=65_536)

    @property
    def templates(self) -> tuple[str, ...]:
        """See `_Filter`."""
        return (f"{{{self.of}}}", self.tests)

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:  # noqa: ARG002
        """See `Length`. Raises SandboxError where code cannot be shut in."""

        def verdict(candidate: Candidate) -> str | None:
            code, tests = program(candidate.values[self.of]), program(filled(self.tests, candidate.values)[0])
            ran = run(code, tests, seconds=self.seconds, memory=self.memory_mb << 20)
            return None if ran.passed else f"did not pass: {ran.why}"

        return [verdict(candidate) for candidate in candidates]


class Agreement(_Filter):
    """Self-consistency (Wang et al. 2022, arXiv 2203.11171): what most samples of a seed say, by their last number or
    by their words; one of them stays, or all. Samples that earlier filters took have no vote."""

    kind: Literal["self-consistency"] = "self-consistency"
    of: str
    by: Literal["number", "text"] = "number"
    least: float = Field(default=0.5, gt=0, le=1, description="Share of the seed's samples that must say the same")
    keep: Literal["one", "all"] = "one"

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:  # noqa: ARG002
        """See `Length`."""
        said = [self._said(candidate.values[self.of]) for candidate in candidates]
        groups: dict[int, list[int]] = defaultdict(list)
        for place, candidate in enumerate(candidates):
            groups[candidate.number].append(place)
        found: list[str | None] = [None] * len(candidates)
        for places_ in groups.values():
            counts = Counter(said[place] for place in places_ if said[place] is not None)
            best, votes = counts.most_common(1)[0] if counts else (None, 0)
            agreed = [place for place in places_ if said[place] == best] if votes >= self.least * len(places_) else []
            for place in places_:
                if not agreed or best is None:
                    found[place] = "no majority"
                elif place not in agreed:
                    found[place] = "the majority says otherwise"
                elif self.keep == "one" and place != agreed[0]:
                    found[place] = "another of the majority stays"
        return found

    def _said(self, text: str) -> Fraction | str | None:
        return last_number(text) if self.by == "number" else " ".join(Words(text).words) or None


class Judge(_Filter):
    """A tutor gives a score by a rubric. What it is shown is quoted, and its answer has one score in tags, or none."""

    kind: Literal["judge"] = "judge"
    rubric: str = Field(min_length=1)
    show: str = Field(min_length=1, description="Template of what is judged; every place in it is quoted")
    lowest: int = 1
    highest: int = 10
    least: int = Field(default=7, description="What a score must reach")
    sampling: SamplingParams = SamplingParams(max_tokens=512)

    @model_validator(mode="after")
    def _all_is_quoted(self) -> "Judge":
        if not all(quoted for _, quoted in places(self.show)) or places(self.rubric):
            raise ValueError("what a judge is shown is quoted, {answer:quoted}, and its rubric has no places")
        if not self.lowest < self.least <= self.highest:
            raise ValueError("the least score lies above the lowest, and not above the highest")
        return self

    @property
    def templates(self) -> tuple[str, ...]:
        """See `_Filter`."""
        return (self.show,)

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:
        """See `Length`. Raises TutorError."""
        found: list[str | None] = ["the judge did not answer"] * len(candidates)
        asked = [self._question(candidate) for candidate in candidates]
        for index, answers in tools.judge.ask(asked, tools.heard):
            answer, candidate = answers[0], candidates[index]
            candidate.pay(answer, tools.judge.usage.prices.of(answer.prompt_tokens, answer.tokens))
            score = self.score(answer.text) if answer.finish == "stop" else None
            if score is None:
                found[index] = "the judge's answer cannot be read"
            else:
                candidate.passed.append({"filter": self.kind, "score": score, "judge": tools.judge.name})
                found[index] = None if score >= self.least else f"scored {score}"
        return found

    def score(self, text: str) -> int | None:
        """The score in a judge's answer; None unless there is exactly one, on the scale."""
        scores = _SCORE.findall(text)
        if len(scores) != 1 or text.count("<score>") != 1:
            return None
        return int(scores[0]) if self.lowest <= int(scores[0]) <= self.highest else None

    def _question(self, candidate: Candidate) -> Question:
        shown, tags = filled(self.show, candidate.values)
        scale = f"an integer from {self.lowest} to {self.highest}, in these tags: <score>{self.lowest}</score>"
        asked = f"{self.rubric.strip()}\n\nEnd with your score, {scale}"
        system = Message(role="system", content=f"{asked}\n\n{warning(tags)}" if tags else asked)
        return Question((system, Message(role="user", content=shown)), self.sampling)


class Decontamination(_Filter):
    """Shares no n-gram of words with what models are judged by."""

    kind: Literal["decontamination"] = "decontamination"
    evaluations: tuple[Source, ...] = Field(min_length=1)
    ngram: int = Field(default=13, ge=5, le=50)

    def identity(self) -> str:
        """See `_Filter`."""
        return ",".join(source.fingerprint() for source in self.evaluations)

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:
        """See `Length`."""
        key = self.model_dump_json()
        if key not in tools.known:
            texts = (text for source in self.evaluations for text in source.documents())
            tools.known[key] = Contamination(texts, self.ngram)
        return [
            "shares words with an evaluation" if Words(_all(candidate)) in tools.known[key] else None
            for candidate in candidates
        ]


class NearDuplicate(_Filter):
    """Not nearly the same words as an example that stayed before."""

    kind: Literal["near-duplicates"] = "near-duplicates"
    of: str
    threshold: float = Field(default=0.8, ge=_CLOSE, le=1, description="Jaccard similarity of 5-word shingles")

    def verdicts(self, candidates: Sequence[Candidate], tools: Tools) -> list[str | None]:
        """See `Length`."""
        return [
            "nearly the same words as one before" if self.seen(candidate.values[self.of], tools) else None
            for candidate in candidates
        ]

    def seen(self, text: str, tools: Tools) -> bool:
        """Whether there was its like; remembers it if not."""
        tools.near = tools.near or NearDuplicates(self.threshold)
        return tools.near.seen(Words(text))


AnyFilter = Annotated[
    Length | Pattern | Verified | Code | Agreement | Judge | Decontamination | NearDuplicate,
    Field(discriminator="kind"),
]


def _all(candidate: Candidate) -> str:
    return "\n".join(candidate.values.values())
