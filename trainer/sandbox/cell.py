"""The inside of the sandbox: `outside.py` runs it by `python -I -S -c`, after `calls.py`. It shuts the door and
runs what it is given: an answer, which then does as its tests ask, or the tests.

The door is Landlock (docs.kernel.org/userspace-api/landlock.html): from then on this process and its children open no
file but the interpreter's libraries, for reading, and connect to nothing. Standard library only, on its own feet.
"""

import ctypes
import json
import os
import resource
import struct
import sys

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_NO_NEW_PRIVILEGES = 38
_EXECUTE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 2, 1 << 3
_OF_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version, all there is
_OF_TCP, _SCOPES = 0b11, 0b11
_CLOSES_ALL = 6  # the version that also keeps signals in; TCP is kept in since 4
_KEEP_CAPABILITIES, _CAPABILITIES_3, _READ_ANY = 8, 0x20080522, 1 << 2
_NOBODY = 65534


def shut(readable: list[str]) -> int:
    """Leave nothing open but `readable`, for reading; Landlock's version, 0 where the kernel has none."""
    kernel = ctypes.CDLL(None, use_errno=True)
    version = int(kernel.syscall(_CREATE, None, 0, 1))
    if version < 1:
        return 0
    files = _OF_FILES[max(known for known in _OF_FILES if known <= version)]
    attributes = struct.pack("QQQ", files, _OF_TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = kernel.syscall(_CREATE, attributes, size, 0)
    if rules < 0:
        return 0
    for path in filter(os.path.exists, readable):
        handle = os.open(path, os.O_PATH)
        allowed = _READ_FILE | (_EXECUTE | _READ_DIRECTORY if os.path.isdir(path) else 0)  # noqa: PTH112  # pathlib takes long to import
        kernel.syscall(_ADD, rules, 1, struct.pack("=Qi", allowed, handle), 0)
        os.close(handle)
    kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = kernel.syscall(_RESTRICT, rules, 0)
    os.close(rules)
    return version if done == 0 else 0


def become_nobody() -> None:
    """From root, keeping of its powers but the one to read: the interpreter may lie where only root looks."""
    kernel = ctypes.CDLL(None, use_errno=True)
    kernel.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)
    kernel.capset(struct.pack("Ii", _CAPABILITIES_3, 0), struct.pack("6I", _READ_ANY, _READ_ANY, 0, 0, 0, 0))


def main() -> None:
    """Run what standard input holds: {code, seal, readable, limits, unshared, pipe}; with a seal it is tests, and the
    seal is printed at their end."""
    given = json.load(sys.stdin)
    line = Line(*given["pipe"])  # type: ignore[name-defined]  # noqa: F821  # of calls.py
    for name, most in given["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    if shut(given["readable"]) < (1 if given["unshared"] else _CLOSES_ALL):
        print("no landlock")  # noqa: T201
        sys.exit(3)
    if os.getuid() == 0:
        become_nobody()
    names = {"__name__": "__main__"}
    if given["seal"]:
        names |= line.names()
    exec(compile(given["code"], "<code>", "exec"), names)  # noqa: S102  # it is what this is for
    if given["seal"]:
        print(f"\n{given['seal']}")  # noqa: T201
    else:
        line.serve(names)


if __name__ == "__main__":
    main()
