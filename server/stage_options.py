"""What may be asked of each stage over REST: the trainer's own options, without torch, and without paths.

A path of a user would be read by the server; where the trainer takes a folder, users name what the server keeps.
"""

import re
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)

from trainer.merge.options import MergeOptions, SpecialistName
from trainer.options import (
    DistilOptions,
    ExtendOptions,
    Lever,
    PreferenceOptions,
    PtqOptions,
    QatOptions,
    Rule,
    SftOptions,
    TeacherOptions,
)
from trainer.recipe import Recipe
from trainer.rewards import Arithmetic, FilelessTasks
from trainer.rl.options import RlOptions
from trainer.synthesis import recipe as recipes
from trainer.synthesis.filters import Agreement, Code, Judge, Length, NearDuplicate, Verified
from trainer.synthesis.options import Own, SynthesisOptions
from trainer.synthesis.seeds import Documents, Problems, Topics

_RUN = re.compile(r"run:(?P<run>[^\x00/]{1,128})(/(?P<stage>[a-z]{1,32}))?")


class RunName(NamedTuple):
    """What a run trained: in its stage of this name, or as the full-precision model that it ended with."""

    run: str
    stage: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `run:ID` or `run:ID/STAGE`.

        Raises:
            ValueError: it is neither.
        """
        found = _RUN.fullmatch(text)
        if found is None:
            raise ValueError("name a teacher as run:ID or run:ID/STAGE, by a run of this server; paths are not taken")
        return cls(found["run"], found["stage"])


def _named(text: str) -> str:
    RunName.parse(text)
    return text


_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Trains(Recipe):
    tokens: int = Field(default=1, ge=1)  # a StageRequest has its own


class TeacherStage(_Trains, TeacherOptions):
    """Of the stage `teacher`."""


class PretrainStage(_Trains, DistilOptions):
    """Of the stage `pretrain`."""

    teacher: Annotated[str, AfterValidator(_named)] | None = Field(  # type: ignore[assignment]  # the trainer's is a Path
        default=None, description="run:ID or run:ID/STAGE; without one, the teacher stage's, or no teacher"
    )


class ExtendStage(_Trains, ExtendOptions):
    """Of the stage `extend`."""

    batch: int = Field(default=1, ge=1)
    sequence: int = Field(default=32_768, ge=64)

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        self.check_lengths(self.batch, self.sequence)
        return self


class RlStage(_Trains, RlOptions):
    """Of the stage `rl`."""

    tasks: FilelessTasks = Arithmetic()  # type: ignore[assignment]  # the trainer's may be of files
    batch: int = Field(default=64, ge=2)
    sequence: int = Field(default=96, ge=8)


class _Problems(Problems):
    tasks: FilelessTasks  # type: ignore[assignment]  # the trainer's may be of files


_Seeds = Annotated[Topics | _Problems, Field(discriminator="kind")]
# A regular expression of a user may take for ever, and what is decontaminated by are files.
_Filter = Annotated[Length | Verified | Code | Agreement | Judge | NearDuplicate, Field(discriminator="kind")]


class SynthesisRecipe(recipes.Recipe):
    """A recipe that reads none of the server's files."""

    seeds: _Seeds
    filters: tuple[_Filter, ...] = ()


def _shipped(given: object, inline: ValidatorFunctionWrapHandler) -> Any:
    """A recipe that is given inline, or by the name of one that is shipped and reads no documents."""
    if not isinstance(given, str):
        return inline(given)
    if given not in recipes.shipped() or isinstance((read := recipes.read_recipe(given)).seeds, Documents):
        raise ValueError(
            "give a recipe inline, or name one that is shipped and reads no documents; paths are not taken"
        )
    return read


class SynthesiseStage(SynthesisOptions):
    """Of the stage `synthesise`: tutors are the run's own models, and recipes read no files."""

    recipe: Annotated[SynthesisRecipe, WrapValidator(_shipped)]
    tutor: Own = "teacher"
    judge: Own | None = None


class SftStage(_Trains, SftOptions):
    """Of the stage `sft`."""

    data: tuple[_Sha256, ...] = Field(  # type: ignore[assignment]  # the trainer's are paths
        default=(), description="sha256 of uploaded files of conversations; without any, what `synthesise` made"
    )


class MergeStage(_Trains, MergeOptions):
    """Of the stage `merge`."""

    specialists: dict[SpecialistName, tuple[_Sha256, ...]] = Field(  # type: ignore[assignment]  # the trainer's are paths
        min_length=2, max_length=64, description="By name: sha256 of uploaded files of conversations"
    )


class PreferenceStage(_Trains, PreferenceOptions):
    """Of the stage `preference`; files are artifacts, judges are rules, and the only tutor is the run's own teacher.

    A user names no model for the server to ask.
    """

    sequence: int = Field(default=256, ge=16)
    prompts: _Sha256 | None = None  # type: ignore[assignment]  # the trainer's is a Path
    pairs: _Sha256 | None = None  # type: ignore[assignment]  # the trainer's is a Path
    tasks: FilelessTasks | None = None  # type: ignore[assignment]  # the trainer's may be of files
    judge_model: None = None
    examiner_model: None = None
    tutor: Literal["teacher"] | None = None

    @field_validator("judge", "examiner")
    @classmethod
    def _ends_in_time(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        if any(rule.rule == "format" for rule in rules):
            raise ValueError("a regular expression may take for ever: format is for `fulcrum train`")
        return rules


class QatStage(_Trains, QatOptions):
    """Of the stage `qat`."""


class PtqStage(PtqOptions):
    """Of the stage `ptq`."""

    sequence: int = Field(default=128, ge=8)
    seed: int = 0


STAGES: dict[str, type[Lever]] = {
    "teacher": TeacherStage,
    "pretrain": PretrainStage,
    "extend": ExtendStage,
    "synthesise": SynthesiseStage,
    "sft": SftStage,
    "merge": MergeStage,
    "preference": PreferenceStage,
    "rl": RlStage,
    "qat": QatStage,
    "ptq": PtqStage,
}

# Validated as a field, so that a mistake is placed at `options/NAME`.
_AS_FIELD = {name: create_model(name, options=(options, ...)) for name, options in STAGES.items()}


def check(stage: str, options: dict[str, JsonValue]) -> Lever:
    """The options as the stage's own; those that it does not have, or that are out of bounds, are refused.

    Raises:
        ValidationError: each mistake, under `options`.
    """
    found: Lever = _AS_FIELD[stage].model_validate({"options": options}).options  # type: ignore[attr-defined]  # a field made at run time
    return found
