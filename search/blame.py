"""Whose fault an error is: the candidate's, which the sampler learns from, or the world's, which ends this attempt."""

from concurrent.futures import BrokenExecutor

from device_agent.contracts import Blame, Fault, FulcrumError
from search.errors import HostFault, SearchCancelled, TrainingRefused
from trainer.errors import (
    ContextOverflow,
    Interrupted,
    QuantisationError,
    TrainerError,
    TrainingDiverged,
    UnsupportedArchitecture,
)

_OF_THE_ARCHITECTURE = (TrainingDiverged, UnsupportedArchitecture, QuantisationError, ContextOverflow)


def fault_of_candidate(error: Exception) -> Fault:
    """The error as this candidate's fault.

    Raises:
        FulcrumError: instead, where the next candidate would meet the same: a fault of user or infrastructure.
    """
    if isinstance(error, FulcrumError):
        if error.blame in (Blame.PHONE, Blame.US):
            return error.as_fault()
        raise error
    if isinstance(error, TrainerError):
        return _fault_of_training(error)
    if isinstance(error, (OSError, MemoryError, BrokenExecutor)):
        advice = "Look at free disk and memory on the server's host; the search carries on by itself."
        raise HostFault(f"{type(error).__name__}: {error}", advice=advice) from error
    return defect(error)


def defect(error: Exception) -> Fault:
    """An error that nobody raised on purpose, as our own fault."""
    return Fault(
        blame=Blame.US,
        slug="internal",
        message=f"{type(error).__name__}: {error}",
        advice="This is a defect of Fulcrum: please report it with the server's log.",
    )


def _fault_of_training(error: TrainerError) -> Fault:
    if isinstance(error, _OF_THE_ARCHITECTURE):
        return Fault(blame=Blame.US, slug=error.slug, message=error.message, advice=error.advice)
    if isinstance(error, Interrupted):
        raise SearchCancelled(error.message, advice=error.advice) from error
    raise TrainingRefused(error) from error
