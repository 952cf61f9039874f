"""The one link to a phone: shell with exit codes, verified push, pull, over the ADB protocol."""

from device_agent.adb.discover import Found, discover
from device_agent.adb.errors import (
    AddressInvalid,
    CommandFailed,
    DeadlineExceeded,
    KeyUnusable,
    PhoneFull,
    PhoneUnauthorised,
    PhoneUnreachable,
    PullFailed,
    PushFailed,
)
from device_agent.adb.keys import ensure_key
from device_agent.adb.link import Link, Push, ShellResult

__all__ = [
    "AddressInvalid",
    "CommandFailed",
    "DeadlineExceeded",
    "Found",
    "KeyUnusable",
    "Link",
    "PhoneFull",
    "PhoneUnauthorised",
    "PhoneUnreachable",
    "PullFailed",
    "Push",
    "PushFailed",
    "ShellResult",
    "discover",
    "ensure_key",
]
