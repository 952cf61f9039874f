"""A client of the REST interface, for the command line and the demo. Problems come back as errors with advice."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from device_agent.contracts import Blame, Fault, FulcrumError, Measurement, PhoneState, Sha256
from search.spec import SearchSpec
from server.api.views import (
    CandidateView,
    CorpusFile,
    CorpusSpec,
    CorpusView,
    Maintenance,
    PhoneChange,
    PhoneRegistration,
    PhoneView,
    Problem,
    RunView,
    SearchView,
    SelfCheckView,
    StageMetrics,
)
from server.errors import RemoteFault
from server.runs import RunSpec

_CHUNK = 1 << 20
_POLL_SECONDS = 0.5
_SERVER_SIDE = 500

Model = TypeVar("Model", bound=BaseModel)
Watched = TypeVar("Watched", SearchView, RunView)


class Unreachable(FulcrumError):
    """Nobody answers at the server's address."""

    blame, slug = Blame.INFRASTRUCTURE, "server-unreachable"


class Client:
    """One server. Every method raises RemoteFault for a problem, and Unreachable when nobody answers."""

    def __init__(self, url: str, token: str | None = None, http: httpx2.Client | None = None) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._url = url.rstrip("/")
        self._http = http or httpx2.Client(base_url=self._url, headers=headers, timeout=60.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the server answers, and its database has every migration."""
        try:
            self._send("GET", "/readyz")
        except FulcrumError:
            return False
        return True

    def phones(
        self,
        *,
        model: str | None = None,
        soc: str | None = None,
        android: str | None = None,
        tags: tuple[str, ...] = (),
        group: str | None = None,
        state: PhoneState | None = None,
    ) -> list[PhoneView]:
        """Every phone, registered or seen; or those that fit."""
        wanted = {"model": model, "soc": soc, "android": android, "tag": tags or None, "group": group, "state": state}
        return self._list("/v1/phones", PhoneView, {name: value for name, value in wanted.items() if value is not None})

    def phone(self, serial: str) -> PhoneView:
        """One phone."""
        return self._get(f"/v1/phones/{_part(serial)}", PhoneView)

    def register_phone(
        self,
        serial: str,
        name: str | None = None,
        tags: tuple[str, ...] = (),
        *,
        group: str | None = None,
        note: str | None = None,
    ) -> PhoneView:
        """Take a phone into the fleet; again is no error, and changes only what is given."""
        body = PhoneRegistration(serial=serial, name=name, tags=tags, group=group, note=note)
        return self._post("/v1/phones", PhoneView, body)

    def change_phone(self, serial: str, change: PhoneChange) -> PhoneView:
        """Name, group, tag or annotate a registered phone; what was not set in `change` stays."""
        content = change.model_dump_json(exclude_unset=True).encode()
        answer = self._send(
            "PATCH", f"/v1/phones/{_part(serial)}", content=content, headers={"content-type": "application/json"}
        )
        return PhoneView.model_validate_json(answer.content)

    def remove_phone(self, serial: str) -> None:
        """Take a phone out of the fleet."""
        self._send("DELETE", f"/v1/phones/{_part(serial)}")

    def release_phone(self, serial: str) -> PhoneView:
        """End a phone's quarantine, or its maintenance."""
        return self._post(f"/v1/phones/{_part(serial)}/release", PhoneView)

    def maintain_phone(self, serial: str, reason: str = "") -> PhoneView:
        """Give a phone no more work until it is released."""
        return self._post(f"/v1/phones/{_part(serial)}/maintenance", PhoneView, Maintenance(reason=reason))

    def check_phone(self, serial: str) -> PhoneView:
        """Ask for a health check; its result appears in the phone's `health`."""
        return self._post(f"/v1/phones/{_part(serial)}/check", PhoneView)

    def test_phone(self, serial: str) -> SelfCheckView:
        """Ask for a phone's self-check; while one is open, that one."""
        return self._post(f"/v1/phones/{_part(serial)}/test", SelfCheckView)

    def phone_test(self, serial: str, check: str) -> SelfCheckView:
        """A self-check, as far as it is."""
        return self._get(f"/v1/phones/{_part(serial)}/test/{_part(check)}", SelfCheckView)

    def upload(self, path: Path) -> Sha256:
        """Store a file's bytes, unless they are there already; returns their name."""
        with path.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()
        address = f"/v1/artifacts/{name}"
        if self._answer("HEAD", address).status_code != httpx2.codes.OK:
            self._send("PUT", address, content=_chunks(path))
        return name

    def register_corpus(self, name: str, files: tuple[CorpusFile, ...]) -> CorpusView:
        """Register uploaded files as a corpus; the same files again give the same corpus."""
        return self._post("/v1/corpora", CorpusView, CorpusSpec(name=name, files=files))

    def corpora(self) -> list[CorpusView]:
        """Every corpus, newest first."""
        return self._list("/v1/corpora", CorpusView)

    def submit_search(self, spec: SearchSpec, key: str | None = None) -> SearchView:
        """Ask for a search; the same `key` (an Idempotency-Key) again gives the same search."""
        return self._post("/v1/searches", SearchView, spec, key)

    def search(self, search: str) -> SearchView:
        """One search."""
        return self._get(f"/v1/searches/{_part(search)}", SearchView)

    def searches(self) -> list[SearchView]:
        """Every search, newest first."""
        return self._list("/v1/searches", SearchView)

    def cancel_search(self, search: str) -> SearchView:
        """Ask a search to stop."""
        return self._post(f"/v1/searches/{_part(search)}/cancel", SearchView)

    def resume_search(self, search: str) -> SearchView:
        """Have a search that failed or was cancelled go on from its last candidate."""
        return self._post(f"/v1/searches/{_part(search)}/resume", SearchView)

    def candidates(self, search: str) -> list[CandidateView]:
        """A search's candidates by number."""
        return self._list(f"/v1/searches/{_part(search)}/candidates", CandidateView)

    def measurements(self, search: str, number: int) -> list[Measurement]:
        """The raw measurements of one candidate."""
        return self._list(f"/v1/searches/{_part(search)}/candidates/{number}/measurements", Measurement)

    def submit_run(self, spec: RunSpec, key: str | None = None) -> RunView:
        """Ask for a run; the same `key` (an Idempotency-Key) again gives the same run."""
        return self._post("/v1/runs", RunView, spec, key)

    def run(self, run: str) -> RunView:
        """One run."""
        return self._get(f"/v1/runs/{_part(run)}", RunView)

    def run_metrics(
        self,
        run: str,
        *,
        stage: int | None = None,
        names: tuple[str, ...] = (),
        since: int = 0,
        limit: int | None = None,
    ) -> list[StageMetrics]:
        """What a run's stages told of themselves: all, or those named, after `since` tokens, `limit` points a stage."""
        wanted = {"stage": stage, "name": names or None, "since": since or None, "limit": limit}
        query = {name: value for name, value in wanted.items() if value is not None}
        return self._list(f"/v1/runs/{_part(run)}/metrics", StageMetrics, query)

    def runs(self) -> list[RunView]:
        """Every run, newest first."""
        return self._list("/v1/runs", RunView)

    def cancel_run(self, run: str) -> RunView:
        """Ask a run to stop."""
        return self._post(f"/v1/runs/{_part(run)}/cancel", RunView)

    def resume_run(self, run: str) -> RunView:
        """Have a run that failed or was cancelled go on from its last checkpoint."""
        return self._post(f"/v1/runs/{_part(run)}/resume", RunView)

    def wait_for_search(
        self,
        search: str,
        on_change: Callable[[SearchView], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
        patience: float = 60.0,
    ) -> SearchView:
        """Follow a search to its end, through restarts of the server that take less than `patience` seconds.

        `meanwhile` is called at every look; what it raises ends the following.
        """
        return _follow(lambda: self.search(search), on_change, meanwhile, patience)

    def wait_for_run(
        self,
        run: str,
        on_change: Callable[[RunView], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
        patience: float = 60.0,
    ) -> RunView:
        """Follow a run to its end, through restarts of the server that take less than `patience` seconds.

        `meanwhile` is called at every look; what it raises ends the following.
        """
        return _follow(lambda: self.run(run), on_change, meanwhile, patience)

    def _get(self, path: str, kind: type[Model]) -> Model:
        return kind.model_validate_json(self._send("GET", path).content)

    def _list(self, path: str, kind: type[Model], query: dict[str, Any] | None = None) -> list[Model]:
        return [kind.model_validate(item) for item in self._send("GET", path, params=query).json()]

    def _post(self, path: str, kind: type[Model], body: BaseModel | None = None, key: str | None = None) -> Model:
        headers = {"content-type": "application/json"} | ({} if key is None else {"idempotency-key": key})
        content = None if body is None else body.model_dump_json().encode()
        return kind.model_validate_json(self._send("POST", path, content=content, headers=headers).content)

    def _send(self, method: str, path: str, **request: Any) -> httpx2.Response:
        response = self._answer(method, path, **request)
        if response.is_success:
            return response
        raise RemoteFault(_fault_of(response))

    def _answer(self, method: str, path: str, **request: Any) -> httpx2.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx2.TransportError as error:
            raise Unreachable(
                f"no answer from {self._url} ({error})",
                advice="Start the server with `fulcrum server`, or name another with --server.",
            ) from error


def _fault_of(response: httpx2.Response) -> Fault:
    blame = Blame.INFRASTRUCTURE if response.status_code >= _SERVER_SIDE else Blame.USER
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return Fault(
            blame=blame,
            slug="unexpected-answer",
            message=f"{response.request.url} answered {response.status_code} without saying why",
            advice="Is this the address of a Fulcrum server?",
        )
    slug = problem.type.rpartition("/")[2]
    return Fault(blame=blame, slug=slug, message=problem.detail, advice=problem.advice)


def _part(name: str) -> str:
    """What the user typed, as one part of an address: no slash or question mark of it leads elsewhere."""
    return quote(name, safe=":")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _follow(
    look: Callable[[], Watched],
    on_change: Callable[[Watched], None] | None,
    meanwhile: Callable[[], None] | None,
    patience: float,
) -> Watched:
    last: Watched | None = None
    heard = time.monotonic()
    while True:
        if meanwhile is not None:
            meanwhile()
        try:
            now = look()
            heard = time.monotonic()
        except Unreachable:
            if time.monotonic() - heard > patience:
                raise
        else:
            if on_change is not None and now != last:
                on_change(now)
            if now.state.final:
                return now
            last = now
        time.sleep(_POLL_SECONDS)
