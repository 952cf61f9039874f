"""Who may ask, and from where."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from service_examples import assert_problem
from starlette.testclient import TestClient

from server.api.app import create_app
from server.errors import InsecureSettings
from server.settings import Settings

TOKEN = "a long random value"


@pytest.fixture
def open_client(sqlite_settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(sqlite_settings), base_url="http://127.0.0.1:8000") as made:
        yield made


@pytest.fixture
def client(sqlite_settings: Settings) -> Iterator[TestClient]:
    guarded = Settings(home=sqlite_settings.home, token=SecretStr(TOKEN), host="0.0.0.0")
    with TestClient(create_app(guarded), base_url="http://bench.example:8000", follow_redirects=False) as made:
        yield made


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "bench.example"])
def test_the_network_needs_a_token(host: str) -> None:
    with pytest.raises(InsecureSettings):
        Settings(host=host)
    assert Settings(host=host, token=SecretStr(TOKEN)).token is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert Settings(host=host).loopback


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULCRUM_PORT", "9999")
    monkeypatch.setenv("FULCRUM_DATABASE_URL", "postgresql://u:p@h/d")
    assert (Settings().port, Settings().url) == (9999, "postgresql+psycopg://u:p@h/d")


def test_without_the_token_nothing_is_told(client: TestClient) -> None:
    for address in ("/", "/v1/phones", "/openapi.json", "/v1/events", "/?token=wrong"):
        answer = client.get(address)
        assert_problem(answer, 401, "unauthorised")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/phones", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/healthz").status_code == 200


def test_programs_send_the_token_and_browsers_keep_it_in_a_cookie(client: TestClient) -> None:
    assert client.get("/v1/phones", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    answer = client.get("/", params={"token": TOKEN, "search": "x"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?search=x")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/v1/phones").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "http://[::"},
    ],
)
def test_other_sites_pages_change_nothing(open_client: TestClient, method: str, headers: dict[str, str]) -> None:
    assert_problem(open_client.request(method, "/v1/phones/one", headers=headers), 403, "cross-site")


@pytest.mark.parametrize(
    "headers", [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": "http://127.0.0.1:8000"}]
)
def test_our_own_page_and_programs_may(open_client: TestClient, headers: dict[str, str]) -> None:
    assert open_client.post("/v1/phones", json={"serial": "one"}, headers=headers).status_code in (200, 201)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::", "a b"])
def test_a_foreign_name_for_loopback_is_refused(open_client: TestClient, host: str) -> None:
    assert_problem(open_client.get("/v1/phones", headers={"host": host}), 421, "wrong-host")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_loopback_by_any_of_its_names(open_client: TestClient, host: str) -> None:
    assert open_client.get("/v1/phones", headers={"host": host}).status_code == 200


def test_browsers_load_from_here_only(open_client: TestClient) -> None:
    for address in ("/", "/v1/phones", "/v1/nothing"):
        headers = open_client.get(address).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_a_body_has_a_limit(open_client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(66):
            yield b" " * (1 << 20)

    json = {"content-type": "application/json"}
    assert_problem(open_client.post("/v1/searches", content=b" " * (65 << 20), headers=json), 413, "too-large")
    assert open_client.post("/v1/searches", content=endless(), headers=json).status_code in (400, 413)
