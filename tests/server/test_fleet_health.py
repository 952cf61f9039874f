"""Health checks and quarantine, on both databases: who fails is out, who passes a check that was asked for is back."""

from fleet_examples import fail_thrice, health, leases, phone, register, see, services_of
from service_examples import TurnedClock, ask, assert_problem, failure, measure_job
from starlette.testclient import TestClient

from device_agent.contracts import Blame


def test_a_failed_check_quarantines_and_a_passed_one_ends_it(client: TestClient, clock: TurnedClock) -> None:
    register(client, "one")
    assert see(client, clock, "one", health=health(clock)) == {"poll_seconds": 2.0}
    clock.turn(1)
    see(client, clock, "one", health=health(clock, passed=False))
    found = phone(client)
    assert (found["state"], found["fault"]["slug"]) == ("quarantined", "health-check-failed")
    assert "space: 100 MiB free" in found["fault"]["message"]
    services_of(client).queue.enqueue(measure_job(), "one", "key")
    assert not leases(client)

    clock.turn(60)
    see(client, clock, "one", health=health(clock))
    assert phone(client)["state"] == "quarantined", "a check that nobody asked for came too soon to mean anything"
    clock.turn(600)
    assert see(client, clock, "one")["check"] == ["one"]
    assert "check" not in see(client, clock, "one"), "asked once, not at every report"
    clock.turn(61)
    assert see(client, clock, "one")["check"] == ["one"], "asked again, for it may have been lost"
    see(client, clock, "one", health=health(clock))
    assert phone(client)["state"] == "ready"
    assert leases(client)
    clock.turn(61)
    assert "check" not in see(client, clock, "one")


def test_who_came_out_of_quarantine_by_a_check_goes_back_by_one_fault(client: TestClient, clock: TurnedClock) -> None:
    register(client, "one")
    see(client, clock, "one")
    queue = services_of(client).queue
    queue.enqueue(measure_job(), "one", "first")
    fail_thrice(client, clock)
    assert phone(client)["state"] == "quarantined"
    clock.turn(600)
    assert see(client, clock, "one")["check"] == ["one"]
    see(client, clock, "one", health=health(clock))
    assert phone(client)["state"] == "ready"
    queue.enqueue(measure_job(), "one", "second")
    held = client.post("/v1/leases", json=ask("one").model_dump(mode="json")).json()
    body = {"epoch": held["epoch"], "secret": held["secret"], "outcome": failure(Blame.PHONE).model_dump()}
    assert client.post(f"/v1/leases/{held['job_id']}/result", json=body).status_code == 200
    assert phone(client)["state"] == "quarantined"


def test_a_check_may_be_asked_for(client: TestClient, clock: TurnedClock) -> None:
    register(client, "one")
    problem = assert_problem(client.post("/v1/phones/one/check"), 409, "conflict")
    assert "fulcrum agent --phone one" in problem["advice"]
    see(client, clock, "one")
    asked = client.post("/v1/phones/one/check")
    assert asked.status_code == 202, asked.text
    assert see(client, clock, "one")["check"] == ["one"]
    see(client, clock, "one", health=health(clock))
    assert phone(client)["health"]["passed"] is True
