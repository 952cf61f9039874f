"""Bytes under their hash: what is wrong, too large or broken off leaves nothing behind."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_examples import assert_problem
from starlette.testclient import TestClient

from server.api.app import create_app
from server.errors import DiskFull, HashMismatch, NotFound, TooLarge
from server.services import Services
from server.settings import Settings

DATA = os.urandom(3 << 20)
NAME = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def client(sqlite_settings: Settings) -> Iterator[TestClient]:
    limited = sqlite_settings.model_copy(update={"max_artifact_bytes": len(DATA)})
    with TestClient(create_app(limited), base_url="http://127.0.0.1") as made:
        yield made


def files_in(settings: Settings) -> list[Path]:
    return [path for path in settings.artifacts.rglob("*") if path.is_file()]


def test_what_goes_in_comes_out(client: TestClient) -> None:
    address = f"/v1/artifacts/{NAME}"
    assert client.head(address).status_code == 404
    assert client.put(address, content=DATA).json() == {"sha256": NAME, "size": len(DATA)}
    assert client.put(address, content=DATA).status_code == 200
    assert client.head(address).headers["content-length"] == str(len(DATA))
    assert client.get(address).content == DATA


def test_a_corrupted_upload_is_refused(client: TestClient, sqlite_settings: Settings) -> None:
    broken = bytes([DATA[0] ^ 1]) + DATA[1:]
    assert_problem(client.put(f"/v1/artifacts/{NAME}", content=broken), 422, "hash-mismatch")
    assert_problem(client.get(f"/v1/artifacts/{NAME}"), 404, "not-found")
    assert files_in(sqlite_settings) == []


@pytest.mark.parametrize("declared", [True, False])
def test_too_much_is_refused(client: TestClient, sqlite_settings: Settings, declared: bool) -> None:
    body = DATA + b"x"
    name = hashlib.sha256(body).hexdigest()
    content = body if declared else (body[i : i + 65_536] for i in range(0, len(body), 65_536))
    assert_problem(client.put(f"/v1/artifacts/{name}", content=content), 413, "too-large")
    assert files_in(sqlite_settings) == []


@pytest.mark.parametrize("name", ["0" * 63, "A" * 64, "..%2f..%2fetc%2fpasswd", "%00"])
def test_a_name_that_is_no_hash_never_becomes_a_path(client: TestClient, name: str) -> None:
    assert client.put(f"/v1/artifacts/{name}", content=b"").status_code in (404, 422)


def test_the_store_itself(sqlite_settings: Settings) -> None:
    services = Services.of(sqlite_settings)
    store = services.artifacts
    assert store.put(b"abc") == store.put(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert store.path(store.put(b"abc")).read_bytes() == b"abc"
    with pytest.raises(NotFound):
        store.path("../../etc/passwd")
    with pytest.raises(HashMismatch):
        store.receive(NAME, [b"other"])

    def breaks_off() -> Iterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.receive(NAME, breaks_off())
    assert not store.has(NAME)
    assert len(files_in(sqlite_settings)) == 1


def test_little_free_space_is_kept_free(sqlite_settings: Settings) -> None:
    store = Services.of(sqlite_settings.model_copy(update={"min_free_bytes": 1 << 60})).artifacts
    with pytest.raises(DiskFull):
        store.put(b"abc")
    small = Services.of(sqlite_settings.model_copy(update={"max_artifact_bytes": 2})).artifacts
    with pytest.raises(TooLarge):
        small.put(b"abc")
    assert files_in(sqlite_settings) == []
