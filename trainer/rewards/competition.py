"""Competition problems from files, verified by math-verify (the extra `reasoning`) in a process of its own.

math-verify's own timeouts are signals, which only a main thread has, and sympy does not always let itself be
interrupted. So they are off, and a process that does not answer in time is killed: its answer counts as wrong.
"""

import hashlib
import importlib.util
import json
import multiprocessing
import threading
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.rewards.problem import Problem, ProblemError, number_of

_LONGEST_LINE = 1 << 20
_LONGEST_ANSWER = 1 << 16  # characters of it, from its end, that are looked at
_SECONDS, _TO_START = 5.0, 120.0  # an answer; a process, whose imports take seconds on a busy machine


class Competition(BaseModel):
    """Rows {"problem": ..., "answer": ...} of JSONL files; further keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["competition"] = "competition"
    files: tuple[Path, ...] = Field(min_length=1, description="A level each, easy to hard, called as its file")

    @field_validator("files")
    @classmethod
    def _distinct(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        if len({file.stem for file in files}) < len(files):
            raise ValueError("two files have one name, which would be that of their levels")
        return files

    @property
    def names(self) -> tuple[str, ...]:
        """See `Tasks`."""
        return tuple(file.stem for file in self.files)

    def problem(self, level: str, seed: int) -> Problem:
        """See `Tasks`."""
        rows = read(next(file for file in self.files if file.stem == level))
        number = number_of("row", seed) % len(rows)
        return Problem(*rows[number], level, f"{level}#{number}")

    def score(self, problem: Problem, text: str) -> float:
        """See `Verifier`."""
        return float(_judge().agrees(problem.answer, text[-_LONGEST_ANSWER:]))

    def identity(self) -> str:
        """See `Tasks`: the sha256 of the files."""
        digest = hashlib.sha256()
        for file in self.files:
            read(file)
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


@cache
def read(file: Path) -> tuple[tuple[str, str], ...]:
    """(problem, answer) of every row.

    Raises:
        ProblemError: the file cannot be read, has no rows, or one that is none; its line is named.
    """
    rows = []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, f"{file}, line {number}"))
    except OSError as wrong:
        raise ProblemError(f"{file} cannot be read: {wrong}", advice="check the path") from wrong
    if not rows:
        raise ProblemError(f"{file} has no problems", advice='write rows {"problem": ..., "answer": ...}')
    return tuple(rows)


def _row(line: bytes, where: str) -> tuple[str, str]:
    if len(line) > _LONGEST_LINE:
        raise ProblemError(f"{where} has {len(line)} bytes, and may have {_LONGEST_LINE}", advice="remove it")
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except ValueError as wrong:
        raise ProblemError(f"{where} is no JSON in UTF-8: {wrong}", advice="correct or remove it") from wrong
    fields = [row.get(name) for name in ("problem", "answer")] if isinstance(row, dict) else []
    texts = [field for field in fields if isinstance(field, str) and field.strip()]
    if len(texts) != 2:
        raise ProblemError(f"{where} has no text `problem` or no text `answer`", advice="correct or remove it")
    return texts[0], texts[1]


@cache
def _judge() -> "MathVerify":
    return MathVerify()


class MathVerify:
    """A process that compares answers, started when it is first needed; from any thread, one comparison at a time."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """Answers that take longer than `seconds` count as wrong.

        Raises:
            ProblemError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ProblemError("math-verify is not installed", advice="install it: pip install 'fulcrum[reasoning]'")
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None

    def agrees(self, answer: str, text: str) -> bool:
        """Whether `text` ends in what equals `answer`.

        Raises:
            ProblemError: the process cannot be started.
        """
        with self._lock:
            pipe = self._started()
            try:
                pipe.send((answer, text))
                if pipe.poll(self._seconds):
                    return bool(pipe.recv())
            except (EOFError, OSError):
                pass  # it died of this comparison
            self.close()
            return False

    def close(self) -> None:
        """End the process; the next comparison starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = self._pipe = None

    def _started(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_compare, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            if not (self._pipe.poll(_TO_START) and _is_ready(self._pipe)):
                self.close()
                raise ProblemError("the process of math-verify does not start", advice="try: import math_verify")
        return self._pipe


def _is_ready(pipe: Connection) -> bool:
    try:
        return bool(pipe.recv())
    except EOFError:
        return False


def _compare(pipe: Connection) -> None:
    """The process."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns at every call that its timeouts are off
    pipe.send(True)
    while True:
        try:
            answer, text = pipe.recv()
        except EOFError:
            return
        try:
            gold = parse(f"${answer}$", parsing_timeout=None)
            found = verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None)
        except Exception:  # sympy, given whatever a model says: what breaks it is not right
            found = False
        pipe.send(bool(found))
