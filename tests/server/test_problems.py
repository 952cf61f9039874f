"""Every error is a problem that says where the mistake is and what to do."""

from collections.abc import Iterator

import pytest
from service_examples import assert_problem
from starlette.testclient import TestClient

from server.api.app import create_app
from server.settings import Settings


@pytest.fixture
def client(sqlite_settings: Settings) -> Iterator[TestClient]:
    app = create_app(sqlite_settings)

    @app.get("/bug")
    def bug() -> None:
        raise ZeroDivisionError("a secret of the inside")

    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def test_unknown_operator_is_pointed_to(client: TestClient) -> None:
    body = {"corpus": "c", "phones": ["one"], "space": {"operators": ["conv", "mamba"]}}
    problem = assert_problem(client.post("/v1/searches", json=body), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/space/operators/1"
    assert "conv" in problem["errors"][0]["detail"]
    assert problem["advice"]


def test_every_mistake_is_listed(client: TestClient) -> None:
    problem = assert_problem(client.post("/v1/searches", json={"phones": [], "typo/x": 1}), 422, "invalid-request")
    assert {item["pointer"] for item in problem["errors"]} == {"/corpus", "/phones", "/typo~1x"}


def test_a_budget_that_is_no_budget(client: TestClient) -> None:
    body = {"corpus": "c", "phones": ["one"], "budgets": {"decode_ms": -1}}
    problem = assert_problem(client.post("/v1/searches", json=body), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/budgets/decode_ms"


@pytest.mark.parametrize("body", ["{", "", "[]", "\x00", '{"corpus": NaN}'])
def test_a_body_that_is_no_object(client: TestClient, body: str) -> None:
    answer = client.post("/v1/searches", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_that_does_not_say_that_it_is_json(client: TestClient) -> None:
    problem = assert_problem(client.post("/v1/searches", content="{}"), 422, "invalid-request")
    assert "Content-Type" in problem["advice"]


def test_unknown_addresses_and_methods(client: TestClient) -> None:
    assert_problem(client.get("/v1/nothing"), 404, "not-found")
    answer = client.delete("/v1/searches")
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"]
    for name in ("searches/x", "runs/x", "phones/x", "corpora/x", "searches/x/candidates"):
        assert assert_problem(client.get(f"/v1/{name}"), 404, "not-found")["advice"]


def test_a_parameter_is_named(client: TestClient) -> None:
    problem = assert_problem(client.get("/v1/events?after=x"), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "query: after"


def test_a_bug_of_ours_tells_nothing_of_the_inside(client: TestClient) -> None:
    problem = assert_problem(client.get("/bug"), 500, "internal")
    assert "secret" not in str(problem)


def test_the_interface_describes_itself(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/searches", "/v1/runs", "/v1/leases", "/v1/events", "/v1/phones/{serial}/release"} <= set(paths)
