"""The one link to a phone: shell with exit codes, verified push, pull, over the ADB protocol."""

from device_agent.adb.discover import Found, discover
from device_agent.adb.errors import (
    AdbServerFailed,
    AddressInvalid,
    CommandFailed,
    DeadlineExceeded,
    KeyUnusable,
    LibusbMissing,
    PhoneBusy,
    PhoneForbidden,
    PhoneFull,
    PhoneUnauthorised,
    PhoneUnpaired,
    PhoneUnreachable,
    PullFailed,
    PushFailed,
)
from device_agent.adb.keys import ensure_key
from device_agent.adb.link import Link, Push
from device_agent.adb.shell import ShellResult

__all__ = [
    "AdbServerFailed",
    "AddressInvalid",
    "CommandFailed",
    "DeadlineExceeded",
    "Found",
    "KeyUnusable",
    "LibusbMissing",
    "Link",
    "PhoneBusy",
    "PhoneForbidden",
    "PhoneFull",
    "PhoneUnauthorised",
    "PhoneUnpaired",
    "PhoneUnreachable",
    "PullFailed",
    "Push",
    "PushFailed",
    "ShellResult",
    "discover",
    "ensure_key",
]
