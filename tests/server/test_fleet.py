"""The fleet over REST: attributes, groups and tags, maintenance, and why a phone does not work."""

from collections.abc import Iterator
from typing import Any

import pytest
from fleet_examples import PIXEL, S24, health, leases, phone, register, see, services_of
from service_examples import TurnedClock, ask, assert_problem, failure, measure_job, report, spec
from starlette.testclient import TestClient

from device_agent.contracts import Blame, Fault, PhoneState, Sighting, Vitals, WorkerProcess
from server.api.app import create_app
from server.api.views import CorpusFile, CorpusSpec
from server.settings import Settings


@pytest.fixture
def client(sqlite_settings: Settings, clock: TurnedClock) -> Iterator[TestClient]:
    """Nothing here depends on the database."""
    with TestClient(create_app(sqlite_settings, clock), base_url="http://127.0.0.1") as made:
        yield made


@pytest.fixture
def fleet(client: TestClient, clock: TurnedClock) -> TestClient:
    register(client, "s24", group="rack-a", tags=["s24", "fast"], note="by the window")
    register(client, "pixel", group="rack-b", tags=["fast"])
    register(client, "bare")
    pixel = Sighting(serial="pixel", state=PhoneState.UNAUTHORISED, facts=PIXEL, probed_at=clock.now)
    s24 = Sighting(serial="s24", state=PhoneState.READY, facts=S24, probed_at=clock.now)
    body = report().model_copy(update={"phones": (pixel, s24)}).model_dump(mode="json")
    assert client.put("/v1/agents/bench", json=body).status_code == 200
    return client


def test_what_the_agent_found_is_shown(client: TestClient, clock: TurnedClock) -> None:
    vitals = Vitals(taken_at=clock.now, battery_percent=81, battery_celsius=30.9, charging=True, free_bytes=9 * 10**9)
    worker = WorkerProcess(pid=7, started_at=clock.now, restarts=2, rss_bytes=48_000_000)
    see(client, clock, "one", vitals=vitals, worker=worker, health=health(clock), via="usb")
    seen = phone(client)
    assert seen["facts"]["cluster_cores"] == {"policy0": [0, 1, 2, 3], "policy9": [9]}
    assert (seen["vitals"]["battery_percent"], seen["vitals"]["battery_celsius"]) == (81, 30.9)
    assert (seen["health"]["passed"], seen["health"]["items"][1]["name"]) == (True, "space")
    assert (seen["worker"]["pid"], seen["worker"]["restarts"], seen["via"]) == (7, 2, "usb")
    assert seen["probed_at"] is not None
    assert seen["registered"] is False


def test_phones_are_found_by_their_attributes(fleet: TestClient) -> None:
    expected: dict[str, set[str]] = {
        "": {"s24", "pixel", "bare"},
        "model=s921": {"s24"},
        "model=SAMSUNG sm": {"s24"},
        "soc=tensor": {"pixel"},
        "android=14": {"s24"},
        "android=1": set(),
        "tag=fast": {"s24", "pixel"},
        "tag=fast&tag=s24": {"s24"},
        "group=rack-b": {"pixel"},
        "group=rack": set(),
        "state=ready": {"s24"},
        "state=unproven": {"bare"},
        "tag=fast&state=unauthorised&soc=g3": {"pixel"},
    }
    answers = {query: fleet.get(f"/v1/phones?{query}").json() for query in expected}
    assert {query: {p["serial"] for p in answer} for query, answer in answers.items()} == expected


def test_an_unknown_state_is_refused(client: TestClient) -> None:
    problem = assert_problem(client.get("/v1/phones?state=tired"), 422, "invalid-request")
    assert "state" in problem["detail"]


def test_a_change_changes_what_it_names(fleet: TestClient) -> None:
    changed = fleet.patch("/v1/phones/s24", json={"add_tags": ["new", "fast"], "remove_tags": ["s24"]})
    assert changed.status_code == 200, changed.text
    assert changed.json()["tags"] == ["fast", "new"]
    assert (changed.json()["group"], changed.json()["note"]) == ("rack-a", "by the window")
    changed = fleet.patch("/v1/phones/s24", json={"group": None, "name": "S24", "note": None})
    assert [changed.json()[field] for field in ("name", "group", "note", "tags")] == [
        "S24",
        None,
        None,
        ["fast", "new"],
    ]
    # registered again, only what is given changes
    again = fleet.post("/v1/phones", json={"serial": "s24", "group": "rack-c"})
    assert again.status_code == 200
    assert [again.json()[field] for field in ("name", "group", "tags")] == ["S24", "rack-c", ["fast", "new"]]


def test_a_change_that_cannot_be_is_refused(fleet: TestClient, clock: TurnedClock) -> None:
    assert_problem(fleet.patch("/v1/phones/nobody", json={"name": "x"}), 404, "not-found")
    assert_problem(fleet.patch("/v1/phones/s24", json={"group": "no spaces"}), 422, "invalid-request")
    assert_problem(fleet.patch("/v1/phones/s24", json={"state": "ready"}), 422, "invalid-request")
    many = {"add_tags": [f"t{i}" for i in range(31)]}
    assert "32" in assert_problem(fleet.patch("/v1/phones/s24", json=many), 409, "conflict")["advice"]
    see(fleet, clock, "stranger")
    problem = assert_problem(fleet.patch("/v1/phones/stranger", json={"name": "x"}), 409, "conflict")
    assert "fulcrum phone add stranger" in problem["advice"]


def test_maintenance_lets_a_job_end_and_gives_no_other(client: TestClient, clock: TurnedClock) -> None:
    register(client, "one")
    see(client, clock, "one")
    queue = services_of(client).queue
    queue.enqueue(measure_job(), "one", "first")
    held = client.post("/v1/leases", json=ask("one").model_dump(mode="json")).json()
    answer = client.post("/v1/phones/one/maintenance", json={"reason": "new battery"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["fault"]["message"]) == ("maintenance", "new battery")
    assert answer.json()["job"]["id"] == held["job_id"]
    proof = {"epoch": held["epoch"], "secret": held["secret"]}
    assert client.post(f"/v1/leases/{held['job_id']}/heartbeat", json=proof).json()["cancelled"] is False
    body = {**proof, "outcome": failure(Blame.USER).model_dump()}
    assert client.post(f"/v1/leases/{held['job_id']}/result", json=body).status_code == 200
    queue.enqueue(measure_job(), "one", "second")
    assert not leases(client)
    see(client, clock, "one", health=health(clock))
    assert phone(client)["state"] == "maintenance", "no check ends it"
    clock.turn(6)
    see(client, clock, "one")
    hindrance = queue.hindrance(queue.enqueue(measure_job(), "one", "second"))
    assert hindrance is not None
    assert "maintenance: new battery" in hindrance
    assert client.post("/v1/phones/one/release").json()["state"] == "ready"
    assert leases(client)


def test_a_resting_phone_gets_no_work_and_says_why(client: TestClient, clock: TurnedClock) -> None:
    register(client, "one")
    low = Fault(blame=Blame.PHONE, slug="battery-low", message="The battery is at 12 %.", advice="Charge it.")
    see(client, clock, "one", state=PhoneState.RESTING, fault=low)
    services_of(client).queue.enqueue(measure_job(), "one", "key")
    assert not leases(client)
    assert (phone(client)["state"], phone(client)["fault"]["slug"]) == ("resting", "battery-low")
    see(client, clock, "one")
    assert phone(client)["fault"] is None
    assert leases(client)


def test_a_phone_whose_agent_is_silent_is_not_called_ready(client: TestClient, clock: TurnedClock) -> None:
    register(client, "one")
    see(client, clock, "one")
    clock.turn(31)
    assert (phone(client)["state"], phone(client)["fault"]["slug"]) == ("silent", "agent-silent")
    assert [p["serial"] for p in client.get("/v1/phones?state=silent").json()] == ["one"]
    see(client, clock, "one")
    assert phone(client)["state"] == "ready"


def test_a_removed_phone_takes_its_name_along_but_not_its_quarantine(client: TestClient, clock: TurnedClock) -> None:
    register(client, "one", group="rack", tags=["a"], note="n", name="N")
    see(client, clock, "one", health=health(clock, passed=False))
    assert client.delete("/v1/phones/one").status_code == 204
    left = phone(client)
    assert [left[field] for field in ("registered", "name", "group", "tags", "note")] == [False, None, None, [], None]
    register(client, "one")
    assert phone(client)["state"] == "quarantined"


def test_a_search_names_phones_by_group_or_tag(fleet: TestClient, clock: TurnedClock) -> None:
    services = services_of(fleet)
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    corpus = services.corpora.register(CorpusSpec(name="c", files=(file,)))[0].id
    see(fleet, clock, "s24", "pixel")

    def submit(*phones: str) -> Any:
        body = spec(corpus, phone="x").model_dump(mode="json") | {"phones": list(phones)}
        return fleet.post("/v1/searches", json=body, headers={"Idempotency-Key": " ".join(phones)})

    first = submit("tag:fast", "s24")
    assert first.status_code == 202, first.text
    assert first.json()["spec"]["phones"] == ["pixel", "s24"]
    fleet.patch("/v1/phones/pixel", json={"remove_tags": ["fast"]})
    assert submit("tag:fast", "s24").json()["id"] == first.json()["id"], "the same request, answered as it was"
    assert submit("group:rack-a").json()["spec"]["phones"] == ["s24"]
    problem = assert_problem(submit("group:nowhere"), 422, "unknown-phone")
    assert "--group nowhere" in problem["advice"]
    clock.turn(60)
    assert_problem(submit("tag:fast"), 422, "phone-not-ready")
