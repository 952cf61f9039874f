"""Which phones are within reach of this host, from every source that there is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Via = Literal["tcp", "usb", "adb-server"]
State = Literal["device", "unauthorized", "offline", "no-permissions", "unpaired"]


@dataclass(frozen=True)
class Found:
    """A phone that some source names; nothing is proved of it yet.

    `serial` is what `Link.connect` takes. `via` is the way that it would go. `state` is in adb's words: "device" may
    be connected to, "unpaired" is a phone with wireless debugging that the adb server has seen but not connected.
    `detail` says in a sentence what is wrong and what to do, "" if nothing is. `facts` is what the source says besides,
    such as `model` and `product`.
    """

    serial: str
    via: Via
    state: State
    detail: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def discover() -> list[Found]:
    """The phones that can be seen now, one entry for each serial; a source that is missing names none."""
    return []
