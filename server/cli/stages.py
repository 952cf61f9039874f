"""Stages on the command line: `--stage qat:scales=learned,tokens=200000`."""

import json
import re
from typing import TYPE_CHECKING, Any

from device_agent.contracts import Blame, FulcrumError

if TYPE_CHECKING:
    from server.runs import StageRequest

_QUOTED = re.compile(r'("(?:[^"\\]|\\.)*")')


class MalformedOption(FulcrumError):
    """An option of a stage that is not NAME=VALUE."""

    blame, slug = Blame.USER, "malformed-option"


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE each; a value that is JSON is taken as such, any other as text.

    Raises:
        MalformedOption: a pair without a name or a value.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise MalformedOption(f"{pair!r} is not NAME=VALUE.", advice="Say for example scales=learned.")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value.strip()
    return found


def parse_fields(text: str) -> dict[str, Any]:
    """NAME or NAME:OPTION=VALUE,... as {"kind": NAME, OPTION: VALUE}; commas inside brackets belong to a value.

    Raises:
        MalformedOption: see `parse_options`.
    """
    name, _, rest = text.partition(":")
    return {"kind": name, **(parse_options(_split(rest)) if rest else {})}


def parse_stage(text: str) -> "StageRequest":
    """What `parse_fields` reads as a request to the server, with `tokens` among the options.

    Raises:
        MalformedOption: see `parse_options`.
        ValidationError: no such stage, or no such option of it.
    """
    from server.runs import StageRequest

    options = parse_fields(text)
    named = {"name": options.pop("kind"), "tokens": options.pop("tokens", None)}
    return StageRequest.model_validate({**named, "options": options})


def _split(text: str) -> list[str]:
    """At the commas that are in no brackets, nor in what JSON quotes."""
    parts, depth = [""], 0
    for piece in _QUOTED.split(text):
        if piece.startswith('"'):
            parts[-1] += piece
            continue
        for letter in piece:
            depth += (letter in "[{") - (letter in "]}")
            if letter == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += letter
    return parts
