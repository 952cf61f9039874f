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


def test_what_only_follows_from_a_mistake_is_not_listed(client: TestClient) -> None:
    body = {"corpus": "c", "phones": ["one"], "space": {"operators": ["mamba"]}, "seed": 2**70}
    problem = assert_problem(client.post("/v1/searches", json=body), 422, "invalid-request")
    assert [item["pointer"] for item in problem["errors"]] == ["/space/operators/0", "/seed"]


def test_mistakes_are_told_in_the_words_of_json(client: TestClient) -> None:
    body = {"corpus": "c", "phones": "one", "space": {"width": [96], "head_dim": 64}}
    problem = assert_problem(client.post("/v1/searches", json=body), 422, "invalid-request")
    assert [item["detail"] for item in problem["errors"]] == [
        "Input should be a valid array",
        "width 96 must be a multiple of head_dim (64)",
    ]


def test_every_mistake_is_listed(client: TestClient) -> None:
    problem = assert_problem(client.post("/v1/searches", json={"phones": [], "typo/x": 1}), 422, "invalid-request")
    assert {item["pointer"] for item in problem["errors"]} == {"/corpus", "/phones", "/typo~1x"}


def test_a_budget_that_is_no_budget(client: TestClient) -> None:
    body = {"corpus": "c", "phones": ["one"], "budgets": {"decode_ms": -1}}
    problem = assert_problem(client.post("/v1/searches", json=body), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/budgets/decode_ms"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ('"budgets": {"decode_ms": Infinity}', "/budgets/decode_ms"),
        ('"budgets": {"peak_memory_mb": 1e999}', "/budgets/peak_memory_mb"),
        ('"budgets": {"ttft_ms": "NaN"}', "/budgets/ttft_ms"),
        ('"space": {"ffn_ratio": [NaN]}', "/space/ffn_ratio/0"),
        ('"space": {"attention_share": [1.5]}', "/space/attention_share/0"),
        ('"space": {"width": [48]}', "/space/width/0"),
        ('"space": {"width": [64000000000000000000000000000000]}', "/space/width/0"),
        ('"space": {"width": [96], "head_dim": 64}', "/space"),
        ('"space": {"width": [96]}, "quantisation": {"group_size": 64}', "/"),
        ('"space": {"depth": [1000000000]}', "/space/depth/0"),
        ('"space": {"kernel": [17]}', "/space/kernel/0"),
        ('"space": {"kv_heads": [0]}', "/space/kv_heads/0"),
        ('"space": {"width": []}', "/space/width"),
        ('"effort": {"batch": 1000000000}', "/effort/batch"),
        ('"protocol": {"repetitions": 1000000000000}', "/protocol/repetitions"),
        ('"context_length": 1000000000000000', "/context_length"),
        ('"seed": -1', "/seed"),
        ('"phones": ["one", "one"]', "/"),
        ('"prefill_chunk": 513, "context_length": 512', "/"),
        ('"phones": ["\\u0000"]', "/phones/0"),
        ('"phones": ["\\ud800"]', "/phones/0"),
        ('"corpus": "\\ud800"', "/corpus"),
        ('"\\ud800": 1', "/"),
    ],
)
def test_a_spec_that_nothing_could_do(client: TestClient, change: str, pointer: str) -> None:
    body = f'{{"corpus": "c", "phones": ["one"], {change}}}'
    answer = client.post("/v1/searches", content=body, headers={"content-type": "application/json"})
    problem = assert_problem(answer, 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == pointer
    assert problem["advice"]
    assert client.get("/v1/searches").json() == []


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"[" * 100_000])
def test_a_body_that_cannot_be_parsed(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/searches", content=body, headers={"content-type": "application/json"})
    assert assert_problem(answer, 400, "bad-request")["advice"]


def test_half_a_surrogate_pair(client: TestClient) -> None:
    body = '{"serial": "one", "tags": ["\\ud800"]}'
    answer = client.post("/v1/phones", content=body, headers={"content-type": "application/json"})
    assert_problem(answer, 422, "invalid-request")
    assert client.get("/v1/phones").json() == []


def test_a_wrong_name_of_bytes_is_no_matter_of_json(client: TestClient) -> None:
    problem = assert_problem(client.put("/v1/artifacts/A", content=b""), 422, "invalid-request")
    assert "JSON" not in problem["advice"]


def test_refused_methods_name_all_that_are_allowed(client: TestClient) -> None:
    assert client.put("/v1/searches").headers["allow"] == "GET, POST"
    assert client.put("/v1/phones/one").headers["allow"] == "DELETE, GET, PATCH"


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
    assert_problem(client.get("/v1/searches/", follow_redirects=False), 404, "not-found")
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
