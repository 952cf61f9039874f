"""Recipes as data: seeds, the steps by which a tutor makes a conversation of each, and what is then filtered out."""

import hashlib
import json
from functools import cached_property
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.chat import Role
from trainer.errors import TrainerError
from trainer.generation.params import SamplingParams
from trainer.synthesis.filters import AnyFilter, Judge, NearDuplicate, Verified
from trainer.synthesis.seeds import AnySeeds, Problems
from trainer.synthesis.templates import places

Kind = Literal["question-answer", "mathematics", "code", "back-translation", "evolution", "dialogue", "refusal"]


class SynthesisError(TrainerError):
    """A recipe that is malformed, or a folder that holds something else."""

    slug = "bad-synthesis"


class Turn(BaseModel):
    """A message with places for values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str = Field(min_length=1)


class Step(BaseModel):
    """One question to the tutor. Its answer becomes the value `name` of later steps and of the conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    messages: tuple[Turn, ...] = Field(min_length=1)
    within: str | None = Field(
        default=None, pattern=r"^[a-z]+$", description="Take what the answer says in one pair of these tags"
    )
    sampling: SamplingParams = SamplingParams(temperature=0.7, max_tokens=1024)


class Recipe(BaseModel):
    """See the module. `samples` answers are drawn at the last step, and each becomes an example if it passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")
    kind: Kind
    seeds: AnySeeds
    steps: tuple[Step, ...] = Field(min_length=1)
    conversation: tuple[Turn, ...] = Field(min_length=2)
    samples: int = Field(default=1, ge=1, le=1024)
    filters: tuple[AnyFilter, ...] = ()
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _places_are_filled(self) -> "Recipe":
        known = dict(self.seeds.names)
        for step in self.steps:
            for turn in step.messages:
                self._check(turn.content, known, f"step {step.name}", asked=True)
            if step.name in known:
                raise ValueError(f"two values are called {step.name}")
            known[step.name] = False
        for turn in self.conversation:
            self._check(turn.content, known, "the conversation", asked=False)
        if self.conversation[-1].role != "assistant":
            raise ValueError("a conversation ends with the assistant's words")
        for each in self.filters:
            for template in each.templates:
                self._check(template, known, f"the filter {each.kind}", asked=isinstance(each, Judge))
            if isinstance(each, Verified) and not isinstance(self.seeds, Problems):
                raise ValueError("only seeds of the kind problems can be verified")
        if any(isinstance(each, NearDuplicate) for each in self.filters[:-1]):
            raise ValueError("near-duplicates comes last: examples are compared with those that are kept")
        return self

    @cached_property
    def identity(self) -> str:
        """sha256 of all that determines the examples, but for the tutor: this, and the content of its sources."""
        parts = [self.model_dump_json(), self.seeds.identity(), *(each.identity() for each in self.filters)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @staticmethod
    def _check(template: str, known: dict[str, bool], where: str, *, asked: bool) -> None:
        for name, quoted in places(template):
            if name not in known:
                raise ValueError(f"{where} wants {{{name}}}, and there are only {', '.join(known)}")
            if asked and known[name] and not quoted:
                raise ValueError(f"{where} gives {{{name}}} as instructions: others wrote it; say {{{name}:quoted}}")


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("trainer.synthesis") / "recipes"
    return sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml"))


def read_recipe(named: str) -> Recipe:
    """A recipe from a file of YAML or JSON, or one of those that are shipped.

    Raises:
        SynthesisError: there is none, or it is malformed.
    """
    if named in shipped():
        text = (resources.files("trainer.synthesis") / "recipes" / f"{named}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(named).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            raise SynthesisError(
                f"the recipe {named} cannot be read: {wrong}",
                advice=f"name a file of YAML or JSON, or one of {', '.join(shipped())}",
            ) from wrong
    try:
        return Recipe.model_validate(_parsed(text, json_only=named.endswith(".json")))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(map(str, first["loc"])) or "altogether"
        raise SynthesisError(
            f"the recipe {named} is malformed: {where}: {first['msg'].removeprefix('Value error, ')}",
            advice="docs/synthesis.md says what a recipe holds",
        ) from wrong
    except ValueError as wrong:
        raise SynthesisError(f"the recipe {named} cannot be parsed: {wrong}", advice="correct it") from wrong


def _parsed(text: str, *, json_only: bool) -> Any:
    if json_only:
        return json.loads(text)
    try:
        yaml = import_module("yaml")
    except ImportError as missing:
        raise SynthesisError(
            "YAML needs pyyaml, which is not installed", advice="pip install 'fulcrum[trainer]', or write JSON"
        ) from missing
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as wrong:
        raise ValueError(str(wrong)) from wrong
