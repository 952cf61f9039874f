"""Errors in words: what a user of the command line reads in place of a traceback."""

import tempfile
import traceback
from pathlib import Path

from pydantic import ValidationError

from device_agent.contracts import FulcrumError
from trainer.errors import TrainerError

_EXTRAS = {
    "adb_shell": "agent",
    "cryptography": "agent",
    "executorch": "search",
    "gguf": "trainer",
    "optuna": "search",
    "torch": "trainer",
}


def in_words(error: Exception) -> tuple[str, str]:
    """What happened, and what to do about it."""
    match error:
        case FulcrumError() | TrainerError():
            return error.message, error.advice
        case ModuleNotFoundError(name=str(name)):
            extra = _EXTRAS.get(name.split(".")[0], "server")
            return f"This command needs {name}, which is not installed.", f"pip install 'fulcrum[{extra}]'"
        case ValidationError():
            return (
                f"What was asked for is malformed:\n{mistakes(error)}",
                "Correct it; --help says what each option means.",
            )
        case OSError(filename=str(name), strerror=str(why)):
            return f"{name}: {why}.", "Check the path, its permissions and the free space there."
        case OSError():
            return f"{error}.", "Look at this host: its disk, its memory, its network."
        case _:
            kept = _keep(error)
            return f"{type(error).__name__}: {error}", f"This is a defect of Fulcrum: please report it with {kept}."


def mistakes(error: ValidationError) -> str:
    """A line per mistake: where, and what."""
    return "\n".join(
        f"  {'.'.join(map(str, e['loc'])) or 'altogether'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    )


def _keep(error: Exception) -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="fulcrum-", suffix=".log", delete=False) as file:
        file.writelines(traceback.format_exception(error))
    return Path(file.name)
