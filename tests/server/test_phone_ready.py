"""Work is refused at once for a phone that no work could reach, with what to do about it."""

from collections.abc import Callable

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
)
from starlette.testclient import TestClient

from device_agent.contracts import Blame, Fault, LeaseResult, PhoneState
from server.api.views import CorpusFile, CorpusSpec, PhoneRegistration
from server.ledger import SearchLedger
from server.services import Services

LOST = Fault(blame=Blame.PHONE, slug="unreachable", message="nothing answers", advice="Wake it.")
START_AGENT = "fulcrum agent --server URL --phone one"


def ready(services: Services, clock: TurnedClock) -> None:
    services.fleet.report("bench", report("one"))


def never_seen(services: Services, clock: TurnedClock) -> None:
    pass


def silent(services: Services, clock: TurnedClock) -> None:
    ready(services, clock)
    clock.turn(31)


def unproven(services: Services, clock: TurnedClock) -> None:
    services.fleet.report("bench", report("one", state=PhoneState.UNPROVEN))


def unreachable(services: Services, clock: TurnedClock) -> None:
    services.fleet.report("bench", report("one", state=PhoneState.UNREACHABLE, fault=LOST))


def dropped(services: Services, clock: TurnedClock) -> None:
    ready(services, clock)
    services.fleet.report("bench", report())


def unauthorised(services: Services, clock: TurnedClock) -> None:
    services.fleet.report("bench", report("one", state=PhoneState.UNAUTHORISED))


def quarantined(services: Services, clock: TurnedClock) -> None:
    ready(services, clock)
    services.queue.enqueue(measure_job(), "one", "key")
    for _ in range(3):
        lease = services.queue.lease(ask("one"))
        assert lease is not None
        outcome = failure(Blame.PHONE)
        services.queue.accept(lease.job_id, LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=outcome))
        clock.turn(5)


@pytest.fixture
def corpus(client: TestClient) -> str:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    services.fleet.register(PhoneRegistration(serial="one"))
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    return services.corpora.register(CorpusSpec(name="c", files=(file,)))[0].id


@pytest.mark.parametrize(
    ("become", "said", "advice"),
    [
        (never_seen, "no agent has reported it yet", START_AGENT),
        (silent, "for more than 30 s", START_AGENT),
        (unproven, "unproven", "GET /v1/phones/one"),
        (unreachable, "unreachable: nothing answers", "Wake it."),
        (dropped, "unreachable", START_AGENT),
        (unauthorised, "unauthorised", "USB debugging"),
        (quarantined, "quarantined: 3 jobs in a row", "POST /v1/phones/one/release"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_nothing_is_begun_on_a_phone_that_is_not_ready(
    client: TestClient,
    clock: TurnedClock,
    corpus: str,
    become: Callable[[Services, TurnedClock], None],
    said: str,
    advice: str,
) -> None:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    become(services, clock)
    headers = {"Idempotency-Key": "k"}
    body = spec(corpus).model_dump(mode="json")
    problem = assert_problem(client.post("/v1/searches", json=body, headers=headers), 422, "phone-not-ready")
    assert said in problem["detail"]
    assert "one" in problem["detail"]
    assert advice in problem["advice"]
    assert client.get("/v1/searches").json() == []

    services.fleet.release("one")
    ready(services, clock)
    taken = client.post("/v1/searches", json=body, headers=headers)
    assert taken.status_code == 202, "the refusal was remembered under the key"


def test_runs_look_at_the_phone_and_replays_do_not(client: TestClient, clock: TurnedClock, corpus: str) -> None:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    ready(services, clock)
    headers = {"Idempotency-Key": "k"}
    body = spec(corpus).model_dump(mode="json")
    search = client.post("/v1/searches", json=body, headers=headers).json()["id"]
    services.claims.claim_search("worker")
    SearchLedger(services.database, search, "worker").remember(candidate(0, 1.0))
    wish = {"search": search, "candidate": 0}
    first = client.post("/v1/runs", json=wish, headers=headers)
    assert first.status_code == 202, first.text

    clock.turn(31)
    assert client.post("/v1/searches", json=body, headers=headers).json()["id"] == search
    assert client.post("/v1/runs", json=wish, headers=headers).json()["id"] == first.json()["id"]
    for phone in (None, "one"):
        problem = assert_problem(client.post("/v1/runs", json={**wish, "phone": phone}), 422, "phone-not-ready")
        assert START_AGENT in problem["advice"]
    assert [run["id"] for run in client.get("/v1/runs").json()] == [first.json()["id"]]
