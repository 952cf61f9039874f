"""The one base of every wire type."""

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """An immutable value; a field that nobody declared is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")
