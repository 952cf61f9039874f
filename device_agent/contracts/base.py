"""The one base of every wire type."""

from pydantic import BaseModel, ConfigDict

MAX_TEXT = 1_000_000  # bounded texts are also checked for half surrogate pairs, which no table and no answer can hold


class Wire(BaseModel):
    """An immutable value; a field that nobody declared is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_max_length=MAX_TEXT)
