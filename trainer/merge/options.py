"""What can be chosen of the stage `merge`. Free of torch: a server checks it before anything runs."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from trainer.merge.recipe import MergeRecipe
from trainer.options import ChatOptions

SpecialistName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_\-]{0,31}$")]


class MergeOptions(ChatOptions):
    """Of specialists, each trained on its own distribution, that are merged into one."""

    specialists: dict[SpecialistName, tuple[Path, ...]] = Field(
        min_length=2, max_length=64, description="By name: JSONL or Parquet of conversations; several with [a, b]"
    )
    recipe: MergeRecipe = Field(
        default=MergeRecipe(), description="How they are merged; weights are in the order of their names"
    )
    evaluations: int = Field(default=40, ge=1, le=10_000, description="Merges to try in the search for weights")
    held_out: float = Field(
        default=0.2, gt=0, lt=1, description="Share of prompts: half to search weights by, half to judge by"
    )

    @field_validator("specialists", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {name: (files,) if isinstance(files, str | Path) else files for name, files in given.items()}

    @field_validator("specialists")
    @classmethod
    def _in_order(cls, given: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
        """By name: the order in which they are written changes nothing."""
        if empty := [name for name, files in given.items() if not files]:
            raise ValueError(f"the specialist {empty[0]} has no files")
        if reserved := {"won", "nats"} & given.keys():
            raise ValueError(f"no specialist may be called {reserved.pop()}: the figures have it of the merge")
        return dict(sorted(given.items()))

    @model_validator(mode="after")
    def _the_method_takes_them(self) -> Self:
        count = len(self.specialists)
        if self.recipe.method == "slerp" and count != 2:
            raise ValueError(f"slerp merges exactly two models, not {count}")
        if self.recipe.weights is not None and len(self.recipe.weights) != count:
            raise ValueError(f"there are {count} specialists and {len(self.recipe.weights)} weights")
        return self
