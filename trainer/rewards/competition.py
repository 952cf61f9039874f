"""Competition problems from files, verified by math-verify (the extra `reasoning`) in a process of its own.

math-verify's own timeouts are signals, which only a main thread has, and sympy does not always let itself be
interrupted. So they are off, and a process that does not answer in time is killed: its answer counts as wrong.
"""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
from functools import cache
from multiprocessing.connection import Connection
from typing import ClassVar, Literal

from trainer.rewards.problem import OneByOne, Problem, ProblemError
from trainer.rewards.rows import OfFiles

_LONGEST_ANSWER = 1 << 16  # characters of it, from its end, that are looked at
_SECONDS, _TO_START = 5.0, 120.0  # an answer; a process, whose imports take seconds on a busy machine


class Competition(OfFiles, OneByOne):
    """Rows {"problem": ..., "answer": ...} of JSONL files; further keys are ignored."""

    columns: ClassVar[tuple[str, str]] = ("problem", "answer")

    kind: Literal["competition"] = "competition"

    def score(self, problem: Problem, text: str) -> float:
        """See `Verifier`."""
        return float(agrees(problem.answer, text))


def agrees(answer: str, text: str) -> bool:
    """Whether `text` ends in what equals `answer`, by math-verify.

    Raises:
        ProblemError: it is not installed, or its process cannot be started.
    """
    return _judge().agrees(answer, text[-_LONGEST_ANSWER:])


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
        self._process: subprocess.Popen[bytes] | None = None
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
            self._process.wait()
            self._process = self._pipe = None

    def _started(self) -> Connection:
        if self._pipe is None:
            self._pipe, theirs = multiprocessing.Pipe()
            # No child of multiprocessing: that runs its parent's main module again, whatever it does.
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import compare; compare({theirs.fileno()})"],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
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


def compare(descriptor: int) -> None:
    """The process: answers what comes through a descriptor, until that is closed."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns at every call that its timeouts are off
    pipe = Connection(descriptor)
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
