"""Answers on disk, each under the hash of what was asked: what was paid for once is not paid for again."""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.tutors.port import Answer, TutorError


class AnswerCache:
    """One file an answer, written whole or not at all; a damaged one is as if it were not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, asked: dict[str, Any]) -> Answer | None:
        """The answer to exactly this, or None."""
        try:
            found = json.loads(self._path(asked).read_text(encoding="utf-8"))
            if found["asked"] == asked and found["sha256"] == _digest(found["answer"]):
                return Answer(**found["answer"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass  # absent or damaged: the question is asked again, and the file replaced
        return None

    def put(self, asked: dict[str, Any], answer: Answer) -> None:
        """Keep an answer. Not flushed to the disk: what a power cut tears, its hash tells.

        Raises:
            TutorError: it cannot be written.
        """
        path, value = self._path(asked), asdict(answer)
        draft = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".draft")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"asked": asked, "answer": value, "sha256": _digest(value)}, file, ensure_ascii=False)
            Path(draft).replace(path)
        except OSError as wrong:
            with suppress(OSError):
                Path(draft or path).unlink()
            raise TutorError(
                f"an answer cannot be kept: {wrong}", advice="see to the disk, then start again"
            ) from wrong

    def _path(self, asked: dict[str, Any]) -> Path:
        digest = _digest(asked)
        return self._folder / digest[:2] / f"{digest}.json"


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
