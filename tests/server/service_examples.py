"""Small wire values that tests share."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from device_agent.contracts import (
    AgentReport,
    Blame,
    Block,
    Condition,
    Failure,
    Fault,
    Figure,
    LeaseRequest,
    MeasureJob,
    Measurement,
    PhoneFacts,
    PhoneState,
    Profile,
    Program,
    Protocol,
    Quantisation,
    Sighting,
    StageSpec,
    Success,
    Transfer,
)
from search.candidate import Candidate, Phase
from search.spec import SearchSpec
from trainer.architecture import Architecture, ShortConv

NOW = datetime(2026, 1, 2, tzinfo=UTC)
INCARNATION = "0" * 32
ARCHITECTURE = Architecture(vocab_size=256, width=64, ffn_width=128, blocks=(ShortConv(),))
_FILE = hashlib.sha256(b"pte").hexdigest()


class TurnedClock:
    """Stands still until a test turns it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def assert_problem(response: httpx2.Response, status: int, slug: str) -> dict[str, Any]:
    """The answer is a problem of this kind, and says what to do; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"/problems/{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def program(context_length: int = 512) -> Program:
    """A manifest of one file."""
    return Program(
        layout="composed",
        architecture=ARCHITECTURE.hash,
        executorch="1.4.1",
        quantisation=Quantisation(),
        vocab_size=256,
        context_length=context_length,
        prefill_chunk=128,
        planned_memory=1000,
        files={_FILE: 3},
        stages=(StageSpec(name="all", file=_FILE),),
    )


def measure_job() -> MeasureJob:
    return MeasureJob(program=program(), protocol=Protocol())


def measurement(serial: str = "one", ms: float = 1.0) -> Measurement:
    block = Block(load_ns=1, prefill_ns=(int(ms * 1e7),), decode_ns=((int(ms * 1e6),),), baseline_bytes=1, peak_bytes=9)
    return Measurement(
        program=program().hash,
        serial=serial,
        virtual=True,
        runner="test",
        protocol=Protocol(),
        before=Condition(taken_at=NOW),
        after=Condition(taken_at=NOW),
        blocks=(block,),
        memory=block,
        transfer=Transfer(pushed_bytes=3, pushed_files=1, kept_files=0, seconds=0.1),
        run_seconds=1.0,
    )


def success(serial: str = "one", ms: float = 1.0) -> Success:
    return Success(result=measurement(serial, ms))


def failure(blame: Blame) -> Failure:
    return Failure(fault=Fault(blame=blame, slug="it-broke", message="it broke", advice="mend it"))


def profile(ms: float = 1.0) -> Profile:
    figure = Figure(value=ms, low=ms, high=ms)
    return Profile(
        ttft_ms=figure,
        prefill_tokens_per_second=figure,
        decode_ms=figure,
        decode_p95_ms=figure,
        load_ms=figure,
        peak_memory_bytes=10,
    )


def report(
    *serials: str,
    state: PhoneState = PhoneState.READY,
    incarnation: str = INCARNATION,
    fault: Fault | None = None,
) -> AgentReport:
    facts = PhoneFacts(model="SM-S921B", virtual=True)
    phones = tuple(Sighting(serial=s, state=state, facts=facts, fault=fault, probed_at=NOW) for s in serials)
    return AgentReport(incarnation=incarnation, version="1", host="bench", phones=phones)


def ask(*serials: str, agent: str = "bench", incarnation: str = INCARNATION) -> LeaseRequest:
    return LeaseRequest(agent=agent, incarnation=incarnation, serials=serials)


def spec(corpus: str, phone: str = "one", **changes: Any) -> SearchSpec:
    return SearchSpec(corpus=corpus, phones=(phone,), **changes)


def candidate(number: int, *values: float, broken: float = -0.1, phase: Phase = Phase.DONE) -> Candidate:
    """A candidate; `broken` above 0 breaks its one budget."""
    return Candidate(
        number=number,
        params={"width": 0},
        architecture=ARCHITECTURE,
        parameters=ARCHITECTURE.parameters,
        phase=phase,
        values=values or None,
        profiles={"one": profile()},
        violations={"decode_ms": broken},
    )
