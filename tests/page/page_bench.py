"""The server as a process, and what a browser says while it shows a page."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from playwright.sync_api import ConsoleMessage, Page

from server.settings import Settings

DEADLINE = 30.0
LEASE_SECONDS = 3600.0  # nobody sends heartbeats here
SERVE = "from server.serving import serve; from server.settings import Settings; serve(Settings())"


class Server:
    """The service as a process of its own on loopback, without a worker: the tests move its ledger."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.settings = Settings(home=home, port=port, lease_seconds=LEASE_SECONDS)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FULCRUM_")},
            "FULCRUM_HOME": str(self.settings.home),
            "FULCRUM_PORT": str(self.settings.port),
            "FULCRUM_LEASE_SECONDS": str(LEASE_SECONDS),
        }
        self._process = subprocess.Popen([sys.executable, "-c", SERVE], env=environment)
        deadline = time.monotonic() + DEADLINE
        while not self._answers():
            assert self._process.poll() is None, "the server ended at once"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE)
            self._process = None

    def _answers(self) -> bool:
        try:
            return httpx2.get(self.base + "/readyz").is_success
        except httpx2.TransportError:
            return False


class Watch:
    """What the browser complained of, and where it turned to."""

    def __init__(self, page: Page) -> None:
        self.complaints: list[str] = []
        self.hosts: set[str | None] = set()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def forgive(self, words: str) -> None:
        """Drop the complaints that a test provoked."""
        self.complaints = [text for text in self.complaints if words not in text]
