"""Commands for a phone's shell: how arguments become its text, who ends them, and how their output comes back."""

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct

from device_agent.adb.channel import Stream
from device_agent.adb.errors import PhoneUnreachable

Word = str | bytes

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = Struct("<BI")
_OUT, _ERR, _EXIT = 1, 2, 3
_LONGEST = 60_000  # bytes: an adb server takes requests of 65535 at most
_GRACE_SECONDS = 2

# adbd makes the shell the leader of a session and sends it SIGHUP when its stream ends, and only that: what the shell
# started would live on, and all of it when adbd itself dies, or when the host falls silent without a word. So the shell
# stays as its group's keeper, and waits for a sleep `s` as long as the deadline. The program's own keeper `p` ends that
# sleep when the program has ended. If it ends by itself, or on SIGHUP, or when standard input does (that is `w`, for
# adbd's death), the group is killed. What a program leaves behind when it ends lives on.
# `w` lets go of the outputs, for adbd waits until nobody holds these, by `exec`: mksh keeps a copy of what else is
# redirected; and it dies by SIGKILL: a mksh that is only just forked loses a SIGTERM. mksh tells of deaths on a waiting
# shell's standard error. `kill` names the group by its leader, so that a shell that leads none kills nothing.
_GUARDED = (
    "exec 3<&0 </dev/null; trap 'kill -9 -$$' HUP; "
    "sleep {seconds} >/dev/null 2>&1 3<&- & s=$!; "
    "( ({exports}exec {command}) & wait $! 2>/dev/null; c=$?; kill -9 $s; exit $c) 3<&- & p=$!; "
    "(exec <&3 >/dev/null 2>&1 3<&-; while read -r x; do :; done; kill -9 -$$) & w=$!; "
    "exec 3<&-; wait $s 2>/dev/null && kill -9 -$$; wait $p; c=$?; kill -9 $w; exit $c"
)


def command_line(argv: Sequence[Word], env: Mapping[str, str], seconds: float) -> bytes:
    """The text for a phone's `sh -c` that runs a program with exactly these arguments, and ends it when we go.

    Standard input is empty. A process that leaves the shell's group (`setsid`) outlives us: that is how a phone is told
    to tidy up by itself. POSIX alone is used: Android's shell is mksh, a virtual phone's is the host's.

    Raises:
        ValueError: a NUL byte, a name that no variable can have, no program, or more text than a phone takes.
    """
    if not argv or _bytes(argv[0])[:1] in (b"", b"-") or any(0 in _bytes(word) for word in [*argv, *env.values()]):
        raise ValueError("a command is the name of a program, and arguments without NUL bytes")
    exports = "".join(f"export {_checked(name)}={_quoted(value)}; " for name, value in env.items())
    command = " ".join(map(_quoted, argv))
    line = _GUARDED.format(seconds=math.ceil(seconds) + _GRACE_SECONDS, exports=exports, command=command)
    text = line.encode(errors="surrogateescape")
    if len(text) > _LONGEST:
        raise ValueError(f"a command of {len(text)} bytes; a phone takes {_LONGEST}")
    return text


def _bytes(word: Word) -> bytes:
    return word if isinstance(word, bytes) else word.encode(errors="surrogateescape")


def _quoted(word: Word) -> str:
    """Between single quotes, in which a POSIX shell (2.2.2) takes every byte for itself."""
    return shlex.quote(_bytes(word).decode(errors="surrogateescape"))


def _checked(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a variable")
    return name


@dataclass(frozen=True)
class ShellResult:
    """How a command ended; 128 + N is death by signal N."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")


@dataclass
class Running:
    """A command while it runs: iterate over its lines of output; the rest is known once they are exhausted."""

    stream: Stream
    exit_code: int = -1
    stderr: bytearray = field(default_factory=bytearray)

    def chunks(self) -> Iterator[bytes]:
        """Standard output as it comes. PhoneUnreachable when the phone hangs up before the exit code."""
        while not self.stream.exhausted():
            kind, length = _HEADER.unpack(self.stream.read_exactly(_HEADER.size))
            body = self.stream.read_exactly(length)
            if kind == _OUT:
                yield bytes(body)
            elif kind == _ERR:
                self.stderr += body
            elif kind == _EXIT:
                self.exit_code = body[0]
        if self.exit_code < 0:
            raise PhoneUnreachable("The phone ended a command without its exit code.", advice="Try again.")

    def __iter__(self) -> Iterator[str]:
        """Lines of standard output, without their ends."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")
