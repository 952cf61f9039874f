"""The inside of the sandbox: `outside.py` runs it by `python -I -S -c`, after `calls.py`. It shuts the door and
runs what it is given: an answer, which then does as its tests ask, or the tests.

The door is Landlock (docs.kernel.org/userspace-api/landlock.html): from then on this process and its children open no
file but the interpreter's libraries, for reading, and connect to nothing. What Landlock leaves open (the rights and
times of files, sockets that are not TCP, shared memory that no limit counts, other processes' priorities) a filter of
system calls closes (docs.kernel.org/userspace-api/seccomp_filter.html). Standard library only, on its own feet.
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
_FILTERS, _BY_PROGRAM = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOWED, _REFUSED, _UNKNOWN, _KILLED = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # 5: an errno, in the low half
_TRUNCATES = 0o1000
_NEWER = 450  # calls from here on are not known here: the library does without
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE3, _OPENAT2 = 435, 437  # how they are asked cannot be seen; without them the library asks as before
_OPENS = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}  # open, openat, and which argument has the flags
_LIMITS_OF = {"x86_64": 302, "aarch64": 261}  # prlimit64
_CALLS = {  # on x86_64, on aarch64
    "bpf": (321, 280),
    "add_key": (248, 217),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clone": (56, 220),
    "creat": (85, None),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fork": (57, None),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "futimesat": (261, None),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "lchown": (94, None),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "removexattr": (197, 14),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setxattr": (188, 5),
    "shmget": (29, 194),
    "socket": (41, 198),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    "vfork": (58, None),
}


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


def filter_calls() -> bool:
    """Refuse `_CALLS`, opening to truncate, and the limits of other processes; whether the kernel does so."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        return False
    column = tuple(_MACHINES).index(machine)
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _MACHINES[machine]), (_RETURN, 0, 0, _KILLED), (_LOAD, 0, 0, 0)]
    for number in (_CLONE3, _OPENAT2):
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _UNKNOWN)]
    steps += [(_AT_LEAST, 0, 1, _NEWER), (_RETURN, 0, 0, _UNKNOWN)]
    for numbers in _CALLS.values():
        if (call := numbers[column]) is not None:
            steps += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _REFUSED)]
    for number, place in _OPENS[machine]:  # an argument's low half stands at 16 and 8 for each before it
        refused, allowed = (_RETURN, 0, 0, _REFUSED), (_RETURN, 0, 0, _ALLOWED)
        steps += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16 + 8 * place), (_BITS, 0, 1, _TRUNCATES), refused, allowed]
    steps += [(_EQUAL, 0, 3, _LIMITS_OF[machine]), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _REFUSED)]
    steps += [(_RETURN, 0, 0, _ALLOWED)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    kernel = ctypes.CDLL(None, use_errno=True)
    return int(kernel.prctl(_FILTERS, _BY_PROGRAM, program, 0, 0)) == 0


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
    if not filter_calls():
        print("no seccomp")  # noqa: T201
        sys.exit(3)
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
