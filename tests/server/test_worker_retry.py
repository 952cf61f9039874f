"""When the world fails, the worker's next try really asks the phone again."""

import threading

import pytest
from service_examples import TurnedClock, ask, failure, measurement, program, report, spec

from device_agent.contracts import Blame, JobOutcome, LeaseResult, Protocol, Success
from server.api.views import CorpusFile, CorpusSpec, PhoneRegistration
from server.claims import ClaimedSearch
from server.ports import PhoneBench
from server.runs import WorkState
from server.services import Services
from server.worker import loop


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_search_that_the_world_stopped_is_tried_three_times(
    services: Services, clock: TurnedClock, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    services.fleet.register(PhoneRegistration(serial="one"))
    services.fleet.report("bench", report("one"))
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    corpus, _ = services.corpora.register(CorpusSpec(name="c", files=(file,)))
    search = services.searches.submit(spec(corpus.id)).id
    attempts = services.settings.attempts
    answers: list[JobOutcome] = [failure(Blame.INFRASTRUCTURE)] * (attempts * fails) + [Success(result=measurement())]

    def agent(_seconds: float) -> None:
        clock.turn(10)
        lease = services.queue.lease(ask("one"))
        assert lease is not None
        result = LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=answers.pop(0))
        services.queue.accept(lease.job_id, result)

    def measure(claimed: ClaimedSearch, services: Services, _owner: str) -> None:
        bench = PhoneBench(services.queue, lambda: False, search=claimed.id, pause=agent)
        bench.measure(program(), Protocol(), "one", 0)

    monkeypatch.setattr(loop, "run_search", measure)
    stop = threading.Event()
    stop.set()  # pauses between the tries end at once
    worker = loop.Worker(services, stop)
    while worker.once():
        pass
    view = services.searches.view(search)
    if fails < 3:
        assert view.state is WorkState.SUCCEEDED, view.fault
        assert answers == []
    else:
        assert view.state is WorkState.FAILED
        assert view.fault == failure(Blame.INFRASTRUCTURE).fault
        assert len(answers) == 1
