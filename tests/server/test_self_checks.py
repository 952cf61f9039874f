"""Self-checks from the request to the phone's flag, over both databases, with a golden Program of the tests' own."""

import threading
from pathlib import Path

import pytest
from service_examples import NOW, TurnedClock, ask, assert_problem, program, report
from starlette.testclient import TestClient

from device_agent.contracts import (
    Blame,
    CheckJob,
    CheckName,
    CheckStep,
    Failure,
    Fault,
    Golden,
    LeaseResult,
    SelfCheck,
    Success,
    content_hash,
)
from server.api.views import PhoneRegistration, SelfCheckView
from server.errors import NotFound, WrongAnswer
from server.golden import GoldenExport, GoldenProgram, GoldenUnavailable
from server.ledger import SqlBlockCache
from server.selfchecks import SelfChecks
from server.services import Services

GOLDEN = Golden(tokens=(1, 2), prefill=1, logits=((0.0, 1.0), (1.0, 0.0)), bound=0.1)


def golden() -> GoldenProgram:
    return GoldenProgram(program=program(), golden=GOLDEN)


def result(*, fails: CheckName | None = None, of: Golden = GOLDEN) -> SelfCheck:
    names = list(CheckName)
    made = names if fails is None else names[: names.index(fails) + 1]
    return SelfCheck(
        program=program().hash,
        golden=content_hash(of),
        serial="one",
        virtual=True,
        runner="native (ExecuTorch 1.4.1)",
        runner_bundle=content_hash("bundle"),
        executorch="1.4.1",
        steps=tuple(CheckStep(name=name, ok=name is not fails, message=f"{name} seen") for name in made),
        taken_at=NOW,
    )


@pytest.fixture
def checks(services: Services, clock: TurnedClock) -> SelfChecks:
    services.fleet.register(PhoneRegistration(serial="one"))
    services.fleet.report("bench", report("one"))
    return SelfChecks(services.database, services.queue, golden, clock)


def shown(services: Services, checks: SelfChecks) -> SelfCheckView | None:
    (phone,) = checks.onto(services.fleet.all())
    return phone.self_check


def answer(services: Services, outcome: Success | Failure) -> None:
    lease = services.queue.lease(ask("one"))
    assert lease is not None
    assert isinstance(lease.job, CheckJob)
    assert lease.job.golden == GOLDEN
    services.queue.accept(lease.job_id, LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=outcome))


def test_a_check_goes_its_way_and_the_phone_shows_it(services: Services, checks: SelfChecks) -> None:
    assert shown(services, checks) is None
    asked = checks.request("one")
    assert (asked.state, asked.passed) == ("preparing", False)
    assert checks.request("one") == asked
    assert (checks.prepare(), checks.prepare()) == (1, 0)
    assert checks.view("one", asked.id).state == "queued"
    answer(services, Success(result=result()))
    done = checks.view("one", asked.id)
    assert (done.state, done.passed, done.runner, done.executorch) == (
        "passed",
        True,
        "native (ExecuTorch 1.4.1)",
        "1.4.1",
    )
    assert [step.name for step in done.steps] == list(CheckName)
    assert shown(services, checks) == done


def test_an_open_check_does_not_hide_the_finished_one(
    services: Services, checks: SelfChecks, clock: TurnedClock
) -> None:
    first = checks.request("one")
    checks.prepare()
    answer(services, Success(result=result()))
    clock.turn(60)
    second = checks.request("one")
    assert second.id != first.id
    flagged = shown(services, checks)
    assert flagged is not None
    assert (flagged.id, flagged.passed) == (first.id, True)
    checks.prepare()
    answer(services, Success(result=result(fails=CheckName.GOLDEN)))
    flagged = shown(services, checks)
    assert flagged is not None
    assert (flagged.id, flagged.passed, flagged.state) == (second.id, False, "failed")
    assert flagged.steps[-1].message == "golden seen"


def test_a_check_counts_for_the_android_that_it_was_made_on(services: Services, checks: SelfChecks) -> None:
    def seen_with(fingerprint: str) -> None:
        (sighting,) = report("one").phones
        assert sighting.facts is not None
        facts = sighting.facts.model_copy(update={"fingerprint": fingerprint})
        updated = report("one").model_copy(update={"phones": (sighting.model_copy(update={"facts": facts}),)})
        services.fleet.report("bench", updated)

    seen_with("build-1")
    checks.request("one")
    checks.prepare()
    answer(services, Success(result=result().model_copy(update={"fingerprint": "build-1"})))
    before = shown(services, checks)
    assert before is not None
    assert (before.passed, before.outdated) == (True, False)
    seen_with("build-2")
    after = shown(services, checks)
    assert after is not None
    assert (after.passed, after.outdated, after.state) == (False, True, "passed")


def test_a_check_whose_job_fails_says_why(services: Services, checks: SelfChecks) -> None:
    asked = checks.request("one")
    checks.prepare()
    fault = Fault(blame=Blame.US, slug="agent-bug", message="it broke", advice="report it")
    answer(services, Failure(fault=fault))
    done = checks.view("one", asked.id)
    assert (done.state, done.fault, done.steps) == ("failed", fault, ())


def test_an_answer_to_other_logits_is_refused(services: Services, checks: SelfChecks) -> None:
    checks.request("one")
    checks.prepare()
    other = GOLDEN.model_copy(update={"bound": 100.0})
    with pytest.raises(WrongAnswer, match="golden"):
        answer(services, Success(result=result(of=other)))


def test_a_golden_program_that_cannot_be_had_fails_the_check(services: Services, clock: TurnedClock) -> None:
    def broken() -> GoldenProgram:
        raise GoldenUnavailable("no torch here", advice="install it")

    services.fleet.register(PhoneRegistration(serial="one"))
    checks = SelfChecks(services.database, services.queue, broken, clock)
    asked = checks.request("one")
    assert checks.prepare() == 0
    done = checks.view("one", asked.id)
    assert (done.state, done.fault and done.fault.slug) == ("failed", "golden-export")
    assert checks.request("one").id != asked.id


def test_a_server_that_ends_leaves_the_check_to_the_next(services: Services, clock: TurnedClock) -> None:
    services.fleet.register(PhoneRegistration(serial="one"))
    export = GoldenExport(services.artifacts, SqlBlockCache(services.database))
    ended = SelfChecks(services.database, services.queue, export, clock)
    asked = ended.request("one")
    exporting = threading.Thread(target=ended.prepare)
    exporting.start()
    export.close()  # before the export has begun, or in the midst of it
    exporting.join(60)
    assert not exporting.is_alive()
    assert ended.view("one", asked.id).state == "preparing"
    assert SelfChecks(services.database, services.queue, golden, clock).prepare() == 1
    assert ended.view("one", asked.id).state == "queued"


def test_an_export_that_fails_says_so_in_its_own_words(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server/__init__.py").touch()
    (tmp_path / "server/golden.py").write_text("raise SystemExit('no such operator')")
    monkeypatch.chdir(tmp_path)  # `python -m` looks here first
    with pytest.raises(GoldenUnavailable, match=r"exit code 1\): no such operator"):
        GoldenExport(services.artifacts, SqlBlockCache(services.database))()


def test_unknown_phones_and_checks_are_not_found(services: Services, checks: SelfChecks) -> None:
    with pytest.raises(NotFound):
        checks.request("two")
    with pytest.raises(NotFound):
        checks.view("one", "nothing")
    asked = checks.request("one")
    with pytest.raises(NotFound):
        checks.view("two", asked.id)


def test_a_queued_check_says_what_it_waits_for(services: Services, checks: SelfChecks, clock: TurnedClock) -> None:
    asked = checks.request("one")
    checks.prepare()
    clock.turn(31)
    waiting = checks.view("one", asked.id).waiting
    assert waiting is not None
    assert "silent" in waiting


def test_over_rest(client: TestClient) -> None:
    """The application prepares checks beside its routes; here one waits for ever, as the phone is nobody's."""
    client.app.state.services.selfchecks._golden = golden  # type: ignore[attr-defined]
    assert_problem(client.post("/v1/phones/one/test"), 404, "not-found")
    client.post("/v1/phones", json={"serial": "one"})
    assert client.get("/v1/phones/one").json()["self_check"] is None
    answer = client.post("/v1/phones/one/test")
    assert answer.status_code == 202
    body = answer.json()
    assert (body["serial"], body["state"], body["passed"]) == ("one", "preparing", False)
    followed = client.get(answer.headers["location"])
    assert followed.status_code == 200
    assert followed.json()["id"] == body["id"]
    assert client.get("/v1/phones").json()[0]["self_check"]["id"] == body["id"]
    assert_problem(client.get("/v1/phones/one/test/other"), 404, "not-found")
