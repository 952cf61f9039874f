"""The time and the names of new things, as parameters: tests bring their own."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
Ids = Callable[[], str]


def utc_now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)


def new_id() -> str:
    """A random name of 80 bits, in hex."""
    return secrets.token_hex(10)


def new_secret() -> str:
    """256 random bits, in hex."""
    return secrets.token_hex(32)
