"""A result is taken for the job that it is of, and for no other."""

from typing import Any

import pytest
from service_examples import (
    NOW,
    ask,
    assert_problem,
    failure,
    measure_job,
    measurement,
    program,
    report,
)
from starlette.testclient import TestClient

from device_agent.contracts import (
    Blame,
    Condition,
    Failure,
    GenerateJob,
    Generation,
    Job,
    Lease,
    LeaseResult,
    Measurement,
    Protocol,
    Success,
    TokenStep,
    Transfer,
)
from server.api.views import PhoneRegistration
from server.errors import WrongAnswer
from server.queue.answers import require_answer
from server.queue.machine import JobState
from server.services import Services

MEASURE, GENERATE = measure_job(), GenerateJob(program=program(), prompt=(1, 2), new_tokens=1)
GENERATION = Generation(
    program=program().hash,
    serial="one",
    virtual=True,
    prompt=(1, 2),
    steps=(TokenStep(token=1, logit=1.0, runner_up=2, runner_up_logit=0.5, ns=10),),
    prefill_ns=10,
    before=Condition(taken_at=NOW),
    after=Condition(taken_at=NOW),
    transfer=Transfer(pushed_bytes=0, pushed_files=0, kept_files=1, seconds=0),
)


def changed(result: Measurement | Generation, **changes: Any) -> Measurement | Generation:
    return result.model_copy(update=changes)


@pytest.mark.parametrize(
    ("work", "result", "said"),
    [
        (MEASURE, GENERATION, "kind"),
        (GENERATE, measurement(), "kind"),
        (MEASURE, changed(measurement(), program=program(1024).hash), "program"),
        (MEASURE, measurement("two"), "serial"),
        (MEASURE, changed(measurement(), protocol=Protocol(repetitions=1)), "protocol"),
        (GENERATE, changed(GENERATION, program=program(1024).hash), "program"),
        (GENERATE, changed(GENERATION, serial="two"), "serial"),
        (GENERATE, changed(GENERATION, prompt=(1,)), "prompt"),
    ],
)
def test_the_result_of_something_else_is_no_answer(work: Job, result: Measurement | Generation, said: str) -> None:
    with pytest.raises(WrongAnswer, match=f"another .*{said}"):
        require_answer(work, "one", Success(result=result))


@pytest.mark.parametrize(("work", "result"), [(MEASURE, measurement()), (GENERATE, GENERATION)])
def test_a_jobs_own_result_and_every_failure_are_answers(work: Job, result: Measurement | Generation) -> None:
    require_answer(work, "one", Success(result=result))
    require_answer(work, "one", failure(Blame.PHONE))


def test_a_wrong_answer_is_refused_when_it_comes_and_a_failure_may_follow(client: TestClient) -> None:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    services.fleet.register(PhoneRegistration(serial="one"))
    services.fleet.report("bench", report("one"))
    job = services.queue.enqueue(MEASURE, "one", "key")
    lease = services.queue.lease(ask("one"))
    assert lease is not None
    problem = assert_problem(_send(client, lease, Success(result=GENERATION)), 422, "wrong-answer")
    assert problem["advice"]
    assert services.queue.look(job).state is JobState.LEASED
    assert _send(client, lease, failure(Blame.US)).status_code == 200
    assert services.queue.look(job).state is JobState.FAILED


def _send(client: TestClient, lease: Lease, outcome: Success | Failure) -> Any:
    body = LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=outcome).model_dump(mode="json")
    return client.post(f"/v1/leases/{lease.job_id}/result", json=body)
