"""The directory that a virtual phone lives in, and how a phone's paths lie in it.

Sync maps every path into the directory and refuses those that leave it. A shell command is text: there the known
prefixes in `_PREFIXES`, where they begin a path, are replaced by their place in the directory; anything else
(/proc/PID, /proc/loadavg, /bin) is this host's own. Output is not rewritten, and neither are the contents of files,
so what must run on both kinds of phone names files relative to its working directory.
"""

import errno
import os
import re
from pathlib import Path
from secrets import token_hex

from device_agent.contracts import Blame, FulcrumError
from device_agent.virtual import galaxy_s24

_PREFIXES = (
    "/data",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/version",
    "/sdcard",
    "/sys/class/power_supply",
    "/sys/class/thermal",
    "/sys/devices/system/cpu",
    "/system/bin",
)
_REWRITTEN = re.compile(rf"(?<![\w./\-])(?=(?:{'|'.join(map(re.escape, _PREFIXES))})(?![\w\-]))")
_WRITABLE = ("data/local/tmp", "sdcard")
_PLAIN = re.compile(r"[A-Za-z0-9_./+\-]+")


class RootUnusable(FulcrumError):
    """The directory given to a virtual phone cannot be used."""

    blame = Blame.USER
    slug = "virtual-root"


class PhoneRoot:
    """A phone's directory; made on first use, kept from then on."""

    def __init__(self, directory: Path) -> None:
        """Fill the directory with what is missing; files that are there keep their content.

        Raises:
            RootUnusable: its path has characters that a shell would interpret, or it cannot be written.
        """
        self.directory = directory.resolve()
        if not _PLAIN.fullmatch(str(self.directory)):
            raise RootUnusable(
                f"{self.directory} has characters that a shell interprets.", advice="Choose a plainer path."
            )
        try:
            self._fill()
        except OSError as error:
            raise RootUnusable(f"{self.directory} cannot be used: {error}.") from error

    def _fill(self) -> None:
        for folder in (*_WRITABLE, "data/misc/adb", "system/bin"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        for name, content in galaxy_s24.files(serial=f"R5VIRT{token_hex(3).upper()}").items():
            path = self.directory / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        for name, target in galaxy_s24.LINKS.items():
            if not (self.directory / name).is_symlink():
                (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
                (self.directory / name).symlink_to(target)
        for name, content in galaxy_s24.SCRIPTS.items():
            path = self.directory / "system/bin" / name
            path.write_text(content)
            path.chmod(0o755)
        shell = self.directory / "system/bin/sh"
        if not shell.is_symlink():
            shell.symlink_to("/bin/sh")

    @property
    def keys(self) -> Path:
        """The accepted public keys, one a line, as Android keeps them."""
        return self.directory / "data/misc/adb/adb_keys"

    def property(self, name: str) -> str:
        """A system property; "" when it is not set."""
        for line in (self.directory / "properties").read_text().splitlines():
            if line.startswith(f"[{name}]: ["):
                return line[len(name) + 5 : -1]
        return ""

    def locate(self, device_path: str, *, writing: bool = False) -> Path:
        """Where a phone's path lies on this host.

        Raises:
            PermissionError: it leaves the directory, or is to be written and is not where a phone lets a shell write.
        """
        place = Path(os.path.normpath(f"{self.directory}/{device_path}"))
        parent = self.directory if place == self.directory else place.parent.resolve()
        if not parent.is_relative_to(self.directory) or place.resolve().is_relative_to(self.directory) is False:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if writing and not any(parent.is_relative_to(self.directory / folder) for folder in _WRITABLE):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return place

    def rewrite(self, command: str) -> str:
        """A shell command with the known prefixes replaced by their place in the directory."""
        own = f"{self.directory}/"  # a path that the phone itself printed is this host's already
        return _REWRITTEN.sub(lambda at: "" if command.startswith(own, at.start()) else str(self.directory), command)

    def environment(self) -> dict[str, str]:
        """The variables that a command sees."""
        return {
            "PATH": f"{self.directory}/system/bin:/usr/local/bin:/usr/bin:/bin",
            "FULCRUM_VIRTUAL_ROOT": str(self.directory),
            "ANDROID_ROOT": f"{self.directory}/system",
            "HOME": str(self.directory),
            "TMPDIR": f"{self.directory}/data/local/tmp",
            "LANG": "C.UTF-8",
        }

    def room(self) -> int | None:
        """Bytes that may still be pushed, when the file `capacity_bytes` in the directory sets a bound."""
        bound = self.directory / "capacity_bytes"
        if not bound.exists():
            return None
        used = sum(path.stat().st_size for path in (self.directory / "data/local/tmp").rglob("*") if path.is_file())
        return int(bound.read_text()) - used
