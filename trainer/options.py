"""What can be chosen of the stages. Free of torch: a server checks it before anything runs."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trainer.precision import EIGHT, FOUR, Precision, Scheme
from trainer.rewards import AnyTasks

Made = Literal["model", "teacher", "data"]
"""What a stage makes for those after it: the model so far, the teacher, or conversations."""

CANDIDATES = (Precision(bits=4, group_size=128), Precision(bits=4, group_size=64), FOUR, EIGHT)
LACKING: dict[Made, tuple[str, str]] = {
    "model": ("a model, and no stage before it makes one", "put a pretraining stage before it"),
    "teacher": ("a teacher of the pipeline, and no stage before it makes one", "put the stage teacher before it"),
    "data": ("conversations, and no stage before it makes any", "name files as `data`, or put synthesise before it"),
}
"""What a stage needs, in words, and what to do about it."""


class Combined(Protocol):
    """How a stage goes together with others."""

    @property
    def makes(self) -> Made:
        """What later stages find of it."""
        ...

    @property
    def needs(self) -> frozenset[Made]:
        """What stages before it must have made, unless it is there from the beginning."""
        ...


class Lever(BaseModel):
    """What is chosen of a stage. See `Combined`: most make a model out of the model so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def makes(self) -> Made:
        """See `Combined`."""
        return "model"

    @property
    def needs(self) -> frozenset[Made]:
        """See `Combined`."""
        return frozenset({"model"})


def lacking(stages: Iterable[Combined], have: Iterable[Made] = ()) -> tuple[int, Made] | None:
    """The first of `stages`, by position, that needs what is not there yet, and what; None where all go together."""
    made = set(have)
    for position, stage in enumerate(stages):
        if wanting := sorted(stage.needs - made):
            return position, wanting[0]
        made.add(stage.makes)
    return None


class _Rounded(Lever):
    scheme: Scheme = Scheme()
    byte_budget: int | None = Field(
        default=None, ge=1, description="Of all matrices in a Program: choose the precision of each by what it costs"
    )
    candidates: tuple[Precision, ...] = Field(
        default=CANDIDATES, min_length=1, description="Precisions to choose from under a budget"
    )
    calibration_windows: int = Field(default=64, ge=1, le=65_536, description="Windows of training text to look at")


class TeacherOptions(Lever):
    """Of the pipeline's own teacher."""

    widen: float = Field(default=1.5, gt=1, le=16, description="Width, FFN width and heads, relative to the model's")

    @property
    def makes(self) -> Made:
        """See `Combined`."""
        return "teacher"

    @property
    def needs(self) -> frozenset[Made]:
        """See `Combined`."""
        return frozenset()


class DistilOptions(Lever):
    """Of learning from a teacher."""

    teacher: Path | None = Field(
        default=None,
        description="A checkpoint of ours, a folder of transformers, or what `fulcrum teach` made; "
        "without one, what the teacher stage trained, or no teacher",
    )
    distillation: float = Field(default=0.5, ge=0, le=1, description="Share of the loss that is distillation")
    top_k: int = Field(default=32, ge=1, le=4096, description="Tokens of the teacher's predictions that are compared")
    temperature: float = Field(default=2.0, gt=0, le=100)
    beta: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Compare whole vocabularies instead, by generalised JSD: 0 forward KL, 1 reverse KL",
    )
    cached: bool = Field(
        default=False, description="Ask the teacher once, before training, and keep its top K for other students"
    )

    @property
    def needs(self) -> frozenset[Made]:
        """See `Combined`."""
        return frozenset()

    @model_validator(mode="after")
    def _a_cache_holds_top_k(self) -> Self:
        if self.cached and self.beta is not None:
            raise ValueError("a cache holds the teacher's top K: whole vocabularies (beta) need the teacher itself")
        return self


class QatOptions(_Rounded):
    """Of quantisation-aware training."""

    scales: Literal["absmax", "searched", "learned"] = Field(
        default="absmax",
        description="Of the largest weight of a group at every step; searched before the first; or searched, then LSQ",
    )
    distillation: float = Field(default=0.5, ge=0, le=1, description="Share of the loss that is self-distillation")
    masters: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Type of the weights that are trained, and of their moments in the optimiser"
    )
    stochastic_rounding: bool = Field(
        default=True, description="Round what is kept in bfloat16 stochastically; to nearest without"
    )
    stochastic_forward: bool = Field(
        default=False, description="Round the weights of the forward pass stochastically while training"
    )


class PtqOptions(_Rounded):
    """Of quantisation after training."""

    method: Literal["nearest", "gptq"] = "gptq"
    scales: Literal["absmax", "searched"] = "searched"


class Phase(BaseModel):
    """A part of a training, and how long its windows are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=64, description="Tokens a window")
    share: float = Field(gt=0, le=1, description="Of the training's tokens, relative to the other phases'")


class ExtendOptions(Lever):
    """Of stretching the context."""

    original: int | None = Field(default=None, ge=64, description="Tokens of the context the model was trained on")
    method: Literal["yarn", "base", "plain"] = "yarn"
    theta: float | None = Field(default=None, gt=1, description="With base: the new RoPE base")
    curriculum: tuple[Phase, ...] = Field(default=(), description="Lengths of windows on the way to the longest")
    long_share: float = Field(default=0.0, ge=0, le=1, description="Share of windows that lie within one document")
    retrieval_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of windows that are synthetic retrieval tasks in their own text"
    )

    @model_validator(mode="after")
    def _theta_has_a_use(self) -> "ExtendOptions":
        if self.theta is not None and self.method != "base":
            raise ValueError("theta is of the method base")
        return self

    def check_lengths(self, batch: int, sequence: int) -> None:
        """That the windows of the curriculum divide steps of `batch` windows of `sequence` tokens.

        Raises:
            ValueError: they do not, or are longer than the new context.
        """
        if wrong := [phase.length for phase in self.curriculum if batch * sequence % phase.length]:
            raise ValueError(f"windows of {wrong[0]} do not divide a step of {batch * sequence} tokens")
        if self.curriculum and max(phase.length for phase in self.curriculum) > sequence:
            raise ValueError(f"the curriculum has longer windows than the sequence ({sequence})")


class ChatOptions(Lever):
    """Of how conversations are read and learnt."""

    order: Literal["shuffled", "given"] = Field(
        default="shuffled", description="Of the first epoch, such as easy to hard; later ones are shuffled"
    )
    replay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of windows, and of the loss, that are the corpus's, not to forget it",
    )
    held_out: float = Field(default=0.1, ge=0, lt=1, description="Share of prompts that figures are taken of")
    on_bad: Literal["refuse", "skip"] = Field(default="refuse", description="What becomes of rows that are malformed")
    long: Literal["cut", "refuse"] = Field(
        default="cut", description="What becomes of conversations longer than a window"
    )


class SftOptions(ChatOptions):
    """Of training on conversations."""

    data: tuple[Path, ...] = Field(
        default=(),
        description="JSONL or Parquet of conversations; several with [a, b]; "
        "without any, what the last stage `synthesise` made",
    )
    of: Literal["model", "teacher"] = Field(default="model", description="Who is trained")
    epochs: float | None = Field(default=None, gt=0, le=1000, description="Times each is read, in the place of tokens")

    @property
    def makes(self) -> Made:
        """See `Combined`."""
        return self.of

    @property
    def needs(self) -> frozenset[Made]:
        """See `Combined`."""
        return frozenset({self.of} if self.data else {self.of, "data"})

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return (given,) if isinstance(given, str | Path) else given


LossName = Literal["sigmoid", "sigmoid_norm", "apo_zero", "simpo"]


class LossTerm(BaseModel):
    """One loss of a mix; see trainer.preference.losses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: LossName
    weight: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.1, gt=0, description="How firmly the policy is held; about 2 for simpo")
    gamma: float = Field(default=0.5, ge=0, description="Of simpo: the margin that the chosen should win by")


RuleName = Literal["correct", "exact", "number", "format", "length", "repetition", "profanity"]


class Rule(BaseModel):
    """One rule of a rule judge; see trainer.preference.judges.rules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: RuleName
    weight: float = Field(default=1.0, gt=0)
    pattern: str | None = Field(default=None, description="Of format: a regular expression of whole answers")
    words: int | None = Field(default=None, ge=1, description="Of length: how many are wished")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.pattern is not None) != (self.rule == "format") or (self.words is not None) != (self.rule == "length"):
            raise ValueError("the rule format has a pattern, length has words, and no other rule has either")
        try:
            re.compile(self.pattern or "")
        except re.error as wrong:
            raise ValueError(f"the pattern is no regular expression: {wrong}") from wrong
        return self


class Prices(BaseModel):
    """What a tutor's tokens cost: money for a million, in whatever currency the user counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    completion: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class TutorOptions(BaseModel):
    """A larger model that speaks; see trainer.tutors. A key is named, never given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = Field(default=None, description="A checkpoint of ours, or a folder of transformers")
    url: str | None = Field(default=None, description="An endpoint of OpenAI's interface, up to and with /v1")
    model: str | None = Field(default=None, min_length=1, description="Of an endpoint")
    key_variable: str | None = Field(default=None, description="Environment variable that holds the endpoint's key")
    key_file: Path | None = Field(default=None, description="File that holds the endpoint's key")
    prices: Prices = Field(default=Prices(), description="Money for a million tokens of prompts, and of answers")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.folder is None) == (self.url is None) or (self.url is None) != (self.model is None):
            raise ValueError("a tutor is either a folder, or the url and model of an endpoint")
        if (self.key_variable and self.key_file) or (self.url is None and (self.key_variable or self.key_file)):
            raise ValueError("an endpoint's key is in a variable or in a file, and a folder has none")
        return self


class PreferenceOptions(Lever):
    """Of learning from preferences."""

    prompts: Path | None = Field(default=None, description="JSONL of prompts that the model answers in every round")
    tasks: AnyTasks | None = Field(
        default=None, description="Problems to answer, in the place of prompts; who poses them verifies the answers"
    )
    problems: int = Field(
        default=200,
        ge=1,
        le=1_000_000,
        description="Of the tasks, of all levels alike, those that are held out included",
    )
    pairs: Path | None = Field(default=None, description="JSONL of pairs to learn from, in the place of prompts")
    verifier: Literal["number", "math"] | None = Field(
        default=None,
        description="Of the answers in a file: by the last number, else word by word (also without this); or by "
        "math-verify",
    )
    judge: tuple[Rule, ...] = Field(default=(), description="Rules that choose between the model's answers")
    examiner: tuple[Rule, ...] = Field(
        default=(), description="Rules that judge the result; without them, all that need no setting and did not train"
    )
    judge_model: TutorOptions | None = Field(default=None, description="A language model that chooses, not rules")
    examiner_model: TutorOptions | None = Field(default=None, description="A language model that judges the result")
    votes: int = Field(
        default=2, ge=1, le=64, description="Of a language model: on an answer, and on each order of two"
    )
    tutor: TutorOptions | Literal["teacher"] | None = Field(
        default=None, description="A larger model that answers beside the student; teacher: the pipeline's own"
    )
    tutor_samples: int = Field(default=2, ge=0, le=1024, description="Answers of the tutor to each prompt")
    revise: bool = Field(default=False, description="The tutor improves chosen answers; kept where the judge agrees")
    losses: tuple[LossTerm, ...] = Field(default=(LossTerm(loss="sigmoid_norm", beta=2.0),), min_length=1)
    rounds: int = Field(
        default=2, ge=1, le=1000, description="Of answers and training, which share the tokens; given pairs are one"
    )
    asked: int | None = Field(default=None, ge=1, description="Prompts of a round, one part after another; all without")
    samples: int = Field(default=4, ge=2, le=1024, description="Answers of the model to each prompt")
    max_tokens: int = Field(default=64, ge=1, description="Of an answer")
    temperature: float = Field(default=1.0, gt=0, le=100)
    margin: float = Field(default=0.0, ge=0, le=1, description="Least difference of a pair's scores; ties never count")
    held_out: float = Field(
        default=0.2, ge=0, lt=1, description="Share of prompts or problems that the win rate is taken of"
    )

    @property
    def needs(self) -> frozenset[Made]:
        """See `Combined`."""
        return frozenset({"model", "teacher"} if self.tutor == "teacher" else {"model"})

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if sum(given is not None for given in (self.prompts, self.pairs, self.tasks)) != 1:
            raise ValueError("say one of prompts, tasks and pairs")
        if self.tasks is not None and self.verifier is not None:
            raise ValueError("tasks verify answers by themselves; a verifier is for those of a file")
        if self.pairs is None and bool(self.judge) == (self.judge_model is not None):
            raise ValueError('answers need one judge: rules, as [{"rule": "exact"}], or a language model')
        if self.pairs is not None and (self.judge or self.judge_model or self.tutor):
            raise ValueError("given pairs have no judge and no tutor")
        if self.examiner and self.examiner_model:
            raise ValueError("the result has one examiner: rules or a language model")
        if self.examiner_model is not None and self.examiner_model == self.judge_model:
            raise ValueError("the result is judged by what did not train it; both are one model")
        if self.revise and self.tutor is None:
            raise ValueError("only a tutor revises answers")
        if both := {rule.rule for rule in self.judge} & {rule.rule for rule in self.examiner}:
            raise ValueError(f"the result is judged by what did not train it; both have {', '.join(sorted(both))}")
        for name, rules in (("judge", self.judge), ("examiner", self.examiner)):
            if len({rule.rule for rule in rules}) < len(rules):
                raise ValueError(f"a rule comes twice in {name}")
        return self
