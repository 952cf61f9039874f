"""Errors, classed by who can mend them.

The class decides what happens next: a user's fault is reported, a phone's is retried elsewhere and counts
towards quarantine, an infrastructure fault is retried, ours fails the trial and asks for a report.
"""

from enum import StrEnum

from device_agent.contracts.base import Wire


class Blame(StrEnum):
    """Who can mend an error."""

    USER = "user"
    PHONE = "phone"
    INFRASTRUCTURE = "infrastructure"
    US = "us"


class Fault(Wire):
    """An error as a value: `slug` is stable and names the kind, `advice` says what to do."""

    blame: Blame
    slug: str
    message: str
    advice: str = ""


class FulcrumError(Exception):
    """The root of all errors that Fulcrum raises on purpose.

    Subclasses set `blame` and `slug`; the message says what happened and `advice` what to do about it.
    """

    blame: Blame = Blame.US
    slug: str = "internal"

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def as_fault(self) -> Fault:
        """The error as a wire value."""
        return Fault(blame=self.blame, slug=self.slug, message=self.message, advice=self.advice)
