"""A key to an endpoint: from the environment or a file, and nowhere to be read again."""

import json
import os
from pathlib import Path

from trainer.tutors.port import TutorError

_HIDDEN = "[secret]"


class Secret:
    """Shows itself to nobody but `reveal`'s caller: not in repr, str, pickles or errors."""

    def __init__(self, value: str, source: str) -> None:
        """`source` says where it came from.

        Raises:
            TutorError: it is empty, or cannot stand in a header.
        """
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise TutorError(
                f"{source} holds no key: one is a single word of printable ASCII", advice="write the key there, alone"
            )
        self._value, self._source = value, source

    @classmethod
    def from_environment(cls, name: str) -> "Secret":
        """The value of a variable. Raises TutorError when it is not set."""
        found = os.environ.get(name, "").strip()
        if not found:
            raise TutorError(f"the environment has no {name}", advice=f"export {name}=..., or name a file with the key")
        return cls(found, f"the environment variable {name}")

    @classmethod
    def from_file(cls, path: Path) -> "Secret":
        """A file's content without white space around it. Raises TutorError when it cannot be read."""
        try:
            return cls(path.read_text(encoding="utf-8").strip(), str(path))
        except (OSError, UnicodeDecodeError) as wrong:
            raise TutorError(f"the key in {path} cannot be read", advice="check the path and its rights") from wrong

    def reveal(self) -> str:
        """The key itself, for a header."""
        return self._value

    def hide_in(self, text: str) -> str:
        """`text` without the key, as it is or as JSON or Python spells it: servers like to quote it back."""
        for spelt in (self._value, json.dumps(self._value)[1:-1], repr(self._value)[1:-1]):
            text = text.replace(spelt, _HIDDEN)
        return text

    def __repr__(self) -> str:
        return f"Secret(from {self._source})"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written down")
