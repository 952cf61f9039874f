"""What the tests of the fleet share: two kinds of phone, and an agent that tells of them."""

from typing import Any

from service_examples import TurnedClock, ask, failure, report
from starlette.testclient import TestClient

from device_agent.contracts import Blame, HealthCheck, HealthItem, PhoneFacts, PhoneState, Sighting
from server.services import Services

S24 = PhoneFacts(
    model="SM-S921B",
    manufacturer="samsung",
    soc="s5e9945",
    android="14",
    sdk=34,
    cores=10,
    cluster_max_khz={"policy0": 1_959_000, "policy9": 3_207_000},
    cluster_cores={"policy0": (0, 1, 2, 3), "policy9": (9,)},
    memory_bytes=7_700_000_000,
    fingerprint="samsung/e1sxeea/e1s:14/X:user/release-keys",
    abi="arm64-v8a",
    serialno="R5CX10ABCDE",
    virtual=False,
)
PIXEL = PhoneFacts(model="Pixel 8", manufacturer="Google", soc="Tensor G3", android="15", virtual=False)


def services_of(client: TestClient) -> Services:
    made: Services = client.app.state.services  # type: ignore[attr-defined]
    return made


def health(clock: TurnedClock, *, passed: bool = True) -> HealthCheck:
    items = (
        HealthItem(name="storage", passed=True, detail="256 KiB written and read back"),
        HealthItem(name="space", passed=passed, detail="100 MiB free"),
    )
    return HealthCheck(started_at=clock.now, items=items)


def see(client: TestClient, clock: TurnedClock, *serials: str, **changes: Any) -> Any:
    """The agent reports phones; gives the server's answer."""
    phones = [
        Sighting(serial=serial, probed_at=clock.now, **{"state": PhoneState.READY, "facts": S24} | changes)
        for serial in serials
    ]
    body = report().model_copy(update={"phones": tuple(phones)}).model_dump(mode="json")
    answer = client.put("/v1/agents/bench", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def register(client: TestClient, serial: str, **given: Any) -> Any:
    answer = client.post("/v1/phones", json={"serial": serial, **given})
    assert answer.status_code == 201, answer.text
    return answer.json()


def phone(client: TestClient, serial: str = "one") -> Any:
    answer = client.get(f"/v1/phones/{serial}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def leases(client: TestClient, serial: str = "one") -> bool:
    """Whether the phone is given its queued job."""
    answer = client.post("/v1/leases", json=ask(serial).model_dump(mode="json"))
    return bool(answer.status_code == 200)


def fail_thrice(client: TestClient, clock: TurnedClock) -> None:
    for _ in range(3):
        held = client.post("/v1/leases", json=ask("one").model_dump(mode="json")).json()
        body = {"epoch": held["epoch"], "secret": held["secret"], "outcome": failure(Blame.PHONE).model_dump()}
        assert client.post(f"/v1/leases/{held['job_id']}/result", json=body).status_code == 200
        clock.turn(5)
