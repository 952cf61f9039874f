"""The REST interface, from a phone's registration to a search's winner, on both databases."""

import hashlib
from typing import Any

import pytest
from service_examples import (
    TurnedClock,
    ask,
    assert_problem,
    candidate,
    failure,
    measure_job,
    report,
    spec,
    success,
)
from starlette.testclient import TestClient
from tokenizers import Tokenizer

from device_agent.contracts import Blame, PhoneState
from search.candidate import Verdict
from server.ledger import SearchLedger
from server.runs import WorkState
from server.services import Services
from trainer.tokenizer import train_tokenizer

TEXT = b"def f(x):\n    return x\n"


def services_of(client: TestClient) -> Services:
    made: Services = client.app.state.services  # type: ignore[attr-defined]
    return made


def put_report(client: TestClient, *serials: str, **changes: Any) -> None:
    body = report(*serials, **changes).model_dump(mode="json")
    answer = client.put("/v1/agents/bench", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"poll_seconds": 2.0}


def register(client: TestClient, serial: str = "one") -> None:
    assert client.post("/v1/phones", json={"serial": serial}).status_code == 201


def upload(client: TestClient, data: bytes = TEXT) -> str:
    name = hashlib.sha256(data).hexdigest()
    assert client.put(f"/v1/artifacts/{name}", content=data).status_code == 201
    return name


def corpus(client: TestClient) -> str:
    body = {"name": "code", "files": [{"sha256": upload(client), "format": "text", "name": "f.py"}]}
    answer = client.post("/v1/corpora", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/corpora/{answer.json()['id']}"
    assert client.post("/v1/corpora", json=body).status_code == 200
    return str(answer.json()["id"])


def submit(client: TestClient, headers: dict[str, str] | None = None, **changes: Any) -> Any:
    put_report(client, "one")
    register(client)
    body = spec(corpus(client), **changes).model_dump(mode="json")
    return client.post("/v1/searches", json=body, headers=headers)


def lease(client: TestClient) -> Any:
    return client.post("/v1/leases", json=ask("one").model_dump(mode="json"))


def test_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}


def test_a_phone_can_be_registered_before_or_after_it_is_seen(client: TestClient) -> None:
    register(client, "before")
    assert client.get("/v1/phones/before").json()["state"] == "unproven"
    put_report(client, "before", "after")
    seen = client.get("/v1/phones/after").json()
    assert (seen["registered"], seen["state"], seen["virtual"]) == (False, "ready", True)
    again = client.post("/v1/phones", json={"serial": "after", "name": "S24", "tags": ["desk"]})
    assert (again.status_code, again.headers["location"]) == (201, "/v1/phones/after")
    assert client.post("/v1/phones", json={"serial": "after"}).json()["tags"] == ["desk"]
    phones = {p["serial"]: p for p in client.get("/v1/phones").json()}
    assert all(p["registered"] and p["state"] == "ready" and p["agent"] == "bench" for p in phones.values())
    put_report(client, "before")
    assert client.get("/v1/phones/after").json()["state"] == "unreachable"


def test_a_job_goes_out_once_and_comes_back_once(client: TestClient) -> None:
    register(client)
    put_report(client, "one")
    job = services_of(client).queue.enqueue(measure_job(), "one", "key")
    given = lease(client)
    assert given.status_code == 200, given.text
    held = given.json()
    assert (held["job_id"], held["epoch"], held["job"]["kind"]) == (job, 1, "measure")
    assert lease(client).status_code == 204
    assert client.get("/v1/phones/one").json()["job"] == {"kind": "measure", "id": job}
    proof = {"epoch": 1, "secret": held["secret"]}
    beat = client.post(f"/v1/leases/{job}/heartbeat", json=proof)
    assert beat.json() == {"cancelled": False, "seconds": 30.0}
    wrong = client.post(f"/v1/leases/{job}/heartbeat", json={**proof, "secret": "x"})
    assert_problem(wrong, 409, "stale-lease")
    answer = {**proof, "outcome": success().model_dump(mode="json")}
    assert client.post(f"/v1/leases/{job}/result", json=answer).status_code == 200
    assert client.post(f"/v1/leases/{job}/result", json=answer).status_code == 200
    other = {**proof, "outcome": success(ms=2).model_dump(mode="json")}
    assert_problem(client.post(f"/v1/leases/{job}/result", json=other), 409, "stale-lease")
    assert client.get("/v1/phones/one").json()["job"] is None


def test_only_registered_phones_that_the_present_agent_proved_get_work(client: TestClient) -> None:
    services_of(client).queue.enqueue(measure_job(), "one", "key")
    put_report(client, "one")
    assert lease(client).status_code == 204, "not registered"
    register(client)
    put_report(client, "one", state=PhoneState.UNAUTHORISED)
    assert lease(client).status_code == 204, "not proved"
    put_report(client, "one", incarnation="1" * 32)
    assert lease(client).status_code == 204, "an agent that was superseded"
    put_report(client, "one")
    assert lease(client).status_code == 200


def test_a_phone_that_fails_in_a_row_is_quarantined_until_released(client: TestClient, clock: TurnedClock) -> None:
    register(client)
    put_report(client, "one")
    services_of(client).queue.enqueue(measure_job(), "one", "key")
    for _ in range(3):
        held = lease(client).json()
        body = {"epoch": held["epoch"], "secret": held["secret"], "outcome": failure(Blame.PHONE).model_dump()}
        assert client.post(f"/v1/leases/{held['job_id']}/result", json=body).status_code == 200
        clock.turn(10)
    phone = client.get("/v1/phones/one").json()
    assert (phone["state"], phone["fault"]["slug"]) == ("quarantined", "quarantined")
    assert "release" in phone["fault"]["advice"]
    services_of(client).queue.enqueue(measure_job(), "one", "another")
    assert lease(client).status_code == 204
    assert client.post("/v1/phones/one/release").json()["state"] == "ready"
    assert lease(client).status_code == 200


def test_a_removed_phone_takes_its_jobs_along(client: TestClient) -> None:
    register(client)
    job = services_of(client).queue.enqueue(measure_job(), "one", "key")
    assert client.delete("/v1/phones/one").status_code == 204
    assert_problem(client.get("/v1/phones/one"), 404, "not-found")
    outcome = services_of(client).queue.look(job).outcome
    assert outcome is not None
    assert outcome.kind == "failure"
    assert outcome.fault.slug == "phone-removed"


def test_a_search_is_accepted_shown_and_cancelled(client: TestClient) -> None:
    answer = submit(client, name="mine")
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/v1/searches/{body['id']}"
    assert (body["state"], body["name"], body["counts"]["proposed"]) == ("queued", "mine", 0)
    assert client.get("/v1/searches").json() == [body] == [client.get(f"/v1/searches/{body['id']}").json()]
    assert client.post(f"/v1/searches/{body['id']}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/v1/searches/{body['id']}/cancel").json()["state"] == "cancelled"


def test_the_same_idempotency_key_makes_one_search(client: TestClient) -> None:
    key = {"Idempotency-Key": "abc"}
    first = submit(client, headers=key).json()
    body = spec(first["spec"]["corpus"]).model_dump(mode="json")
    assert client.post("/v1/searches", json=body, headers=key).json()["id"] == first["id"]
    assert len(client.get("/v1/searches").json()) == 1
    other = spec(first["spec"]["corpus"], seed=1).model_dump(mode="json")
    again = client.post("/v1/searches", json=other, headers=key)
    assert_problem(again, 422, "idempotency-key-reused")


def test_what_a_search_names_must_be_there(client: TestClient) -> None:
    register(client)
    known = corpus(client)
    missing = client.post("/v1/searches", json=spec("nowhere").model_dump(mode="json"))
    assert "POST /v1/corpora" in assert_problem(missing, 422, "unknown-corpus")["advice"]
    stranger = client.post("/v1/searches", json=spec(known, phone="two").model_dump(mode="json"))
    assert "two" in assert_problem(stranger, 422, "unknown-phone")["detail"]
    tiny = spec(known, budgets={"peak_memory_mb": 0.001}).model_dump(mode="json")
    assert_problem(client.post("/v1/searches", json=tiny), 422, "budget-out-of-reach")
    assert client.get("/v1/searches").json() == []


def test_candidates_show_the_front_so_far_and_then_the_verdicts(client: TestClient) -> None:
    name = submit(client).json()["id"]
    claims = services_of(client).claims
    assert claims.claim_search("worker") is not None
    ledger = SearchLedger(services_of(client).database, name, "worker")
    ledger.remember(candidate(0, 2.0, 1.0))
    ledger.remember(candidate(1, 1.0, 2.0))
    ledger.remember(candidate(2, 3.0, 3.0))
    ledger.remember(candidate(3, 0.0, 0.0, broken=0.5))
    ledger.progress("measuring", 4, 16)
    rows = client.get(f"/v1/searches/{name}/candidates").json()
    assert [row["on_front"] for row in rows] == [True, True, False, False]
    assert [row["feasible"] for row in rows] == [True, True, True, False]
    view = client.get(f"/v1/searches/{name}").json()
    assert view["counts"] == {"proposed": 4, "done": 4, "failed": 0, "feasible": 3}
    assert view["progress"] == {"message": "measuring", "done": 4, "total": 16}
    ledger.conclude(Verdict(front=(1,), winner=1, budgets=(), why="it is best"))
    claims.finish_search(name, "worker", WorkState.SUCCEEDED)
    rows = client.get(f"/v1/searches/{name}/candidates").json()
    assert [row["number"] for row in rows if row["on_front"]] == [row["number"] for row in rows if row["winner"]] == [1]
    run = client.post("/v1/runs", json={"search": name})
    assert (run.status_code, run.json()["candidate"]) == (202, 1)
    assert [stage["name"] for stage in run.json()["stages"]] == ["teacher", "pretrain", "qat"]
    metrics = f"/v1/runs/{run.json()['id']}/metrics"
    assert client.get(f"{metrics}?stage=2&name=loss&name=bits_per_byte&since=7&limit=9").json() == [
        {"position": 2, "name": "qat", "points": []}
    ]
    assert "0 to 2" in assert_problem(client.get(f"{metrics}?stage=3"), 404, "not-found")["advice"]
    assert "limit" in assert_problem(client.get(f"{metrics}?limit=1001"), 422, "invalid-request")["detail"]
    assert_problem(client.get("/v1/runs/none/metrics"), 404, "not-found")
    assert client.get(f"/v1/runs/{run.json()['id']}").json() == run.json()
    assert client.post(f"/v1/runs/{run.json()['id']}/cancel").json()["state"] == "cancelled"


def test_raw_measurements_of_a_candidate(client: TestClient) -> None:
    name = submit(client).json()["id"]
    services = services_of(client)
    services.claims.claim_search("worker")
    SearchLedger(services.database, name, "worker").remember(candidate(0, 1.0))
    services.queue.enqueue(measure_job(), "one", "key", search=name, number=0)
    held = lease(client).json()
    body = {"epoch": held["epoch"], "secret": held["secret"], "outcome": success().model_dump(mode="json")}
    client.post(f"/v1/leases/{held['job_id']}/result", json=body)
    found = client.get(f"/v1/searches/{name}/candidates/0/measurements").json()
    assert found == [success().result.model_dump(mode="json")]
    assert_problem(client.get(f"/v1/searches/{name}/candidates/7/measurements"), 404, "not-found")


def test_a_run_needs_a_winner_or_a_number(client: TestClient) -> None:
    name = submit(client).json()["id"]
    assert_problem(client.post("/v1/runs", json={"search": name}), 409, "no-winner")
    assert_problem(client.post("/v1/runs", json={"search": name, "candidate": 3}), 404, "not-found")
    assert_problem(client.post("/v1/runs", json={"search": "none"}), 404, "not-found")
    assert client.get("/v1/runs").json() == []


def test_a_corpus_must_hold_text(client: TestClient) -> None:
    missing = {"name": "c", "files": [{"sha256": "0" * 64, "format": "text"}]}
    assert (
        "PUT /v1/artifacts" in assert_problem(client.post("/v1/corpora", json=missing), 422, "corpus-missing")["advice"]
    )
    for blank in (b"", b" \n\t\n"):
        empty = {"name": "c", "files": [{"sha256": upload(client, blank), "format": "text"}]}
        assert_problem(client.post("/v1/corpora", json=empty), 422, "corpus-empty")
    assert client.get("/v1/corpora").json() == []


@pytest.mark.parametrize(
    ("data", "wrong", "said"),
    [
        ("gr\u00fcn\n".encode("latin1"), {"format": "text"}, "not UTF-8"),
        (b'{"body": "words"}\n', {"format": "jsonl"}, "'text' (there is: body)"),
        (b"words\n", {"format": "jsonl"}, "not JSON"),
        (b'{"text": "words"}\n' * 5000 + b'{"text": ', {"format": "jsonl"}, "line 5001 is not JSON"),
        (b"PAR1 and nothing else", {"format": "parquet"}, "not a readable Parquet file"),
    ],
    ids=["encoding", "field", "json", "late", "parquet"],
)
def test_a_corpus_that_cannot_be_read_is_refused_by_name(
    client: TestClient, data: bytes, wrong: dict[str, str], said: str
) -> None:
    good = {"sha256": upload(client), "format": "text", "name": "good.txt"}
    bad = {"sha256": upload(client, data), "name": "bad.file", **wrong}
    problem = assert_problem(client.post("/v1/corpora", json={"name": "c", "files": [good, bad]}), 422, "bad-corpus")
    assert "bad.file" in problem["detail"]
    assert said in problem["detail"]
    assert problem["advice"]
    assert client.get("/v1/corpora").json() == []


def test_a_blank_file_beside_text_does_no_harm(client: TestClient) -> None:
    files = [{"sha256": upload(client, data), "format": "text"} for data in (b"\n", TEXT)]
    assert client.post("/v1/corpora", json={"name": "c", "files": files}).status_code == 201


def test_a_tokenizer_of_the_users_own(client: TestClient) -> None:
    made = train_tokenizer([TEXT.decode()], 300)
    there = upload(client, made.to_str().encode())
    accepted = submit(client, tokenizer=there).json()["spec"]
    assert accepted["tokenizer"] == there
    before = client.get("/v1/searches").json()

    def again(tokenizer: str) -> Any:
        return client.post("/v1/searches", json=accepted | {"tokenizer": tokenizer})

    assert_problem(again("0" * 64), 422, "tokenizer-missing")
    broken = upload(client, b"{}")
    problem = assert_problem(again(broken), 422, "bad-tokenizer")
    assert problem["detail"].startswith(f"tokenizer {broken[:12]} ")  # and not by its path on our disk
    too_many = Tokenizer.from_str(made.to_str())
    too_many.add_tokens([f"word{i}" for i in range(4000)])
    refused = again(upload(client, too_many.to_str().encode()))
    assert "raise vocab_size" in assert_problem(refused, 422, "bad-tokenizer")["advice"]
    assert client.get("/v1/searches").json() == before
