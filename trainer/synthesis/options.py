"""What can be chosen of the stage `synthesise`. Free of torch: a server checks it before anything runs."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from trainer.options import Lever, Made, TutorOptions
from trainer.synthesis.recipe import Recipe, read_recipe

Own = Literal["teacher", "self"]
"""A model of the pipeline as tutor: what it made the teacher, or the model so far."""


def _read(given: object) -> object:
    return read_recipe(given) if isinstance(given, str) else given


class SynthesisOptions(Lever):
    """Of making conversations for later stages."""

    recipe: Annotated[Recipe, BeforeValidator(_read)] = Field(
        description="Inline, a file of YAML or JSON, or one that is shipped"
    )
    tutor: Own | TutorOptions = Field(
        default="teacher", description="teacher: the pipeline's; self: the model so far; or a larger one"
    )
    judge: Own | TutorOptions | None = Field(default=None, description="Of the filter judge; without one, the tutor")
    limit: int | None = Field(default=None, ge=1, description="Seeds at most; all without it")

    @property
    def makes(self) -> Made:
        """See `Combined`."""
        return "data"

    @property
    def needs(self) -> frozenset[Made]:
        """See `Combined`."""
        needed: dict[object, Made] = {"teacher": "teacher", "self": "model"}
        return frozenset(needed[who] for who in (self.tutor, self.judge) if isinstance(who, str))
