"""A server just big enough for an agent: one queue, leases with epochs, results taken once."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from device_agent.contracts import GenerateJob, MeasureJob


@dataclass
class Book:
    """What the server knows, for tests to set and read."""

    jobs: dict[str, MeasureJob | GenerateJob] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    epoch: dict[str, int] = field(default_factory=dict)
    leased: set[str] = field(default_factory=set)
    results: dict[str, list[Any]] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    reports: list[Any] = field(default_factory=list)
    refuse_results_with: int = 0
    refused_kinds: tuple[str, ...] = ("success", "failure")
    heartbeats: int = 0
    check: tuple[str, ...] = ()
    tokens: set[str | None] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, job_id: str, job: MeasureJob | GenerateJob, content: bytes) -> None:
        self.artifacts[next(iter(job.program.files))] = content
        self.jobs[job_id] = job


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    book: ClassVar[Book]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = None) -> None:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def do_PUT(self) -> None:
        self.book.tokens.add(self.headers["Authorization"])
        self.book.reports.append(self._body())
        check, self.book.check = self.book.check, ()
        self._answer(200, {"poll_seconds": 0.05, "check": check})

    def do_GET(self) -> None:
        self._answer(200, self.book.artifacts[self.path.rpartition("/")[2]])

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/v1/leases":
            self._lease(body)
            return
        job_id, call = self.path.split("/")[3:]
        with self.book.lock:
            if job_id in self.book.stale or body["epoch"] != self.book.epoch[job_id]:
                self._answer(409, {"title": "stale lease", "detail": "another holder"})
            elif call == "heartbeat":
                self.book.heartbeats += 1
                self._answer(200, {"cancelled": job_id in self.book.cancelled, "seconds": 0.3})
            elif self.book.refuse_results_with and body["outcome"]["kind"] in self.book.refused_kinds:
                self._answer(self.book.refuse_results_with, {"title": "no", "detail": "not now"})
            else:
                self.book.results.setdefault(job_id, []).append(body["outcome"])
                self._answer(200, {})

    def _lease(self, body: Any) -> None:
        with self.book.lock:
            for job_id, job in self.book.jobs.items():
                if job_id not in self.book.leased and job_id not in self.book.results:
                    self.book.leased.add(job_id)
                    self.book.epoch[job_id] = self.book.epoch.get(job_id, 0) + 1
                    lease = {
                        "job_id": job_id,
                        "serial": body["serials"][0],
                        "epoch": self.book.epoch[job_id],
                        "secret": "s3cret",
                        "seconds": 0.3,
                        "job": job.model_dump(mode="json"),
                    }
                    self._answer(200, lease)
                    return
        self._answer(204)


@contextmanager
def serving(book: Book, port: int = 0) -> Iterator[str]:
    """The server's address, while it runs."""
    handler = type("Handler", (_Handler,), {"book": book})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
