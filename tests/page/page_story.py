"""A search in progress, told to a real server through its REST API and its own repositories."""

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import httpx2

from device_agent.contracts import (
    AgentReport,
    Blame,
    Condition,
    Fault,
    Figure,
    Generation,
    HealthCheck,
    HealthItem,
    MeasureJob,
    PhoneFacts,
    PhoneState,
    Profile,
    Program,
    Protocol,
    Quantisation,
    Sighting,
    StageSpec,
    TokenStep,
    Transfer,
    Vitals,
    WorkerProcess,
)
from search.candidate import BudgetReport, Candidate, Phase, Predicted, Quality, Verdict
from server import metrics
from server.api.views import SearchView
from server.fleet import Fleet
from server.ledger import RunLedger, SearchLedger
from server.runs import MetricPoint, StageRecord, TokenCheck, WorkState
from server.services import Services
from server.settings import Settings
from trainer.architecture import Architecture, Attention, ShortConv

VIRTUAL, REAL, SIGHTED, SILENT = "127.0.0.1:5555", "R5CX10ABCDE", "R58N70QWERT", "R3CT80ZXCVB"
OWNER = "the-test"
BUDGETS = {"decode_ms": 2.0, "ttft_ms": 150.0, "peak_memory_mb": 8.0}
# number: width, blocks, bits per byte, decode ms, TTFT ms, peak MB
DONE = {
    0: (128, "ccAccA", 2.513, 0.82, 62.0, 3.9),
    1: (192, "ccccAA", 2.341, 1.21, 97.0, 5.2),
    2: (256, "cAcAcAcA", 2.102, 2.87, 214.0, 9.4),
    3: (128, "cccc", 2.688, 0.55, 38.0, 3.1),
    4: (192, "cAcccA", 2.297, 1.33, 104.0, 5.6),
    6: (256, "ccAccc", 2.218, 1.72, 131.0, 6.9),
    7: (128, "AAcccccc", 2.467, 1.15, 88.0, 5.0),
    8: (256, "cccAcccA", 2.149, 2.21, 148.0, 8.3),
    9: (192, "cccccc", 2.402, 1.10, 79.0, 4.9),
    10: (256, "cAcc", 2.301, 1.41, 92.0, 6.1),
}
LATER = (192, "ccAcA", 2.05, 1.25, 99.0, 5.4)
FRONT = {0, 1, 3, 4, 6, 9}
FEASIBLE = FRONT | {7, 10}


def architecture(width: int, blocks: str) -> Architecture:
    """`c` is a short convolution, `A` is attention."""
    attention = Attention(heads=width // 32, kv_heads=2 if width % 64 == 0 else 1, head_dim=32)
    operators = tuple(attention if letter == "A" else ShortConv() for letter in blocks)
    return Architecture(vocab_size=2048, width=width, ffn_width=2 * width, blocks=operators)


def figure(value: float) -> Figure:
    return Figure(value=value, low=value * 0.97, high=value * 1.04)


def profile(decode_ms: float, ttft_ms: float, peak_mb: float) -> Profile:
    return Profile(
        ttft_ms=figure(ttft_ms),
        prefill_tokens_per_second=figure(128_000 / ttft_ms),
        decode_ms=figure(decode_ms),
        decode_p95_ms=figure(decode_ms * 1.3),
        load_ms=figure(11.0),
        peak_memory_bytes=int(peak_mb * 1e6),
    )


def done(number: int, row: tuple[int, str, float, float, float, float]) -> Candidate:
    """A finished candidate as the table above has it; on the real phone everything takes three times as long."""
    width, blocks, quality, decode, ttft, memory = row
    shape = architecture(width, blocks)
    measured = {"decode_ms": decode, "ttft_ms": ttft, "peak_memory_mb": memory}
    return Candidate(
        number=number,
        params={},
        architecture=shape,
        parameters=shape.parameters,
        phase=Phase.DONE,
        program="a" * 64,
        linked="b" * 64,
        profiles={VIRTUAL: profile(decode, ttft, memory), REAL: profile(3 * decode, 3 * ttft, memory)},
        predicted={VIRTUAL: Predicted(decode_ms=1.05 * decode, ttft_ms=ttft, seen=0.5)},
        quality=Quality(bits_per_byte=quality, tokens=160_000),
        values=(quality, decode, memory),
        violations={name: measured[name] / bound - 1 for name, bound in BUDGETS.items()},
        seconds={"build": 0.2, "export": 11.8, "push": 0.7, "run": 5.1, "score": 21.4},
    )


def under_way(number: int, phase: Phase, blocks: str, fault: Fault | None = None) -> Candidate:
    shape = architecture(192, blocks)
    return Candidate(
        number=number, params={}, architecture=shape, parameters=shape.parameters, phase=phase, fault=fault
    )


def candidates() -> list[Candidate]:
    crash = Fault(
        blame=Blame.PHONE,
        slug="program-crashed",
        message="The runner was killed by signal 9 while it loaded the program.",
        advice="The phone ran out of memory: lower the largest width or depth of the space.",
    )
    return [
        *(done(number, row) for number, row in DONE.items()),
        under_way(5, Phase.FAILED, "AAAAAAAA", crash),
        under_way(11, Phase.MEASURED, "ccAcA"),
        under_way(12, Phase.EXPORTED, "cAAc"),
        under_way(13, Phase.PROPOSED, "cccA"),
    ]


def facts(virtual: bool) -> PhoneFacts:
    return PhoneFacts(
        model="SM-S921B",
        manufacturer="samsung",
        soc="SM8650",
        android="14",
        sdk=34,
        abi="arm64-v8a",
        cores=8,
        cluster_max_khz={"policy0": 2_265_600, "policy2": 3_148_800, "policy7": 3_398_400},
        cluster_cores={"policy0": (0, 1), "policy2": (2, 3, 4, 5, 6), "policy7": (7,)},
        fingerprint="samsung/e1qxxx/e1q:14/UP1A.231005.007/S921BXXS3AXF1:user/release-keys",
        memory_bytes=7_900_000_000,
        free_bytes=91_000_000_000,
        virtual=virtual,
    )


def vitals(now: datetime, percent: int, celsius: float) -> Vitals:
    return Vitals(
        taken_at=now, battery_percent=percent, battery_celsius=celsius, charging=True, free_bytes=91_000_000_000
    )


CHECKED = HealthCheck(
    started_at=datetime.now(UTC),
    items=(
        HealthItem(name="storage", passed=True, detail="256 KiB written and read back"),
        HealthItem(name="battery", passed=True, detail="92 %; charging above 80 %"),
    ),
)


def both_ready() -> Sequence[Sighting]:
    """Before the real phone was lost."""
    now = datetime.now(UTC)
    phones = {VIRTUAL: True, REAL: False}
    return [
        Sighting(serial=serial, state=PhoneState.READY, facts=facts(virtual), probed_at=now)
        for serial, virtual in phones.items()
    ]


def sightings() -> Sequence[Sighting]:
    now = datetime.now(UTC)
    lost = Fault(
        blame=Blame.PHONE,
        slug="phone-unreachable",
        message="No answer to <b>ping</b> within 5 s.",
        advice="Wake the phone and see that USB debugging is on.",
    )
    return (
        Sighting(
            serial=VIRTUAL,
            state=PhoneState.READY,
            facts=facts(True),
            probed_at=now,
            vitals=vitals(now, 92, 30.9),
            health=CHECKED,
            worker=WorkerProcess(pid=4242, started_at=now, restarts=1, rss_bytes=48_000_000),
        ),
        Sighting(serial=REAL, state=PhoneState.UNREACHABLE, facts=facts(False), fault=lost, probed_at=now),
        Sighting(serial=SIGHTED, state=PhoneState.UNAUTHORISED, probed_at=now),
    )


def report(phones: Sequence[Sighting]) -> AgentReport:
    return AgentReport(incarnation="0" * 32, version="0.1.0", host="bench-host", phones=tuple(phones))


class Story:
    """One server's ledger, and how the search in it goes on."""

    def __init__(self, base: str, settings: Settings) -> None:
        self.base = base
        self.services = Services.of(settings)
        self.search = ""
        self.training: RunLedger | None = None

    def close(self) -> None:
        self.services.database.close()

    def call(self, method: str, path: str, **content: object) -> httpx2.Response:
        answer = httpx2.request(method, self.base + path, timeout=10, **content)  # type: ignore[arg-type]  # passed on
        assert answer.is_success, answer.text
        return answer

    def begin(self) -> None:
        """Phones, a corpus, a search that a worker has taken up, and its first candidates."""
        self.report(both_ready())
        past = Fleet(self.services.database, lambda: datetime.now(UTC) - timedelta(minutes=5))
        past.report("bench-2", report([Sighting(serial=SILENT, state=PhoneState.READY, probed_at=datetime.now(UTC))]))
        for serial, name in ((VIRTUAL, "Virtual S24"), (REAL, "Bench 3"), (SILENT, "Bench 4")):
            self.call("POST", "/v1/phones", json={"serial": serial, "name": name})
        text = b"def f(x):\n    return x + 1\n" * 50
        digest = hashlib.sha256(text).hexdigest()
        self.call("PUT", f"/v1/artifacts/{digest}", content=text)
        files = [{"sha256": digest, "format": "text"}]
        corpus = self.call("POST", "/v1/corpora", json={"name": "code", "files": files}).json()["id"]
        spec = {"name": "small hybrid", "corpus": corpus, "phones": [VIRTUAL, REAL], "budgets": BUDGETS}
        self.search = SearchView.model_validate(self.call("POST", "/v1/searches", json=spec).json()).id
        claimed = self.services.claims.claim_search(OWNER)
        assert claimed is not None
        assert claimed.id == self.search
        self.report()
        for candidate in candidates():
            self.ledger.remember(candidate)
        self.ledger.progress("measuring candidate 12 on Virtual S24", 11, 16)
        self.lease()

    @property
    def ledger(self) -> SearchLedger:
        return SearchLedger(self.services.database, self.search, OWNER)

    def report(self, phones: Sequence[Sighting] | None = None) -> None:
        """The agent says that it is there."""
        self.call("PUT", "/v1/agents/bench-1", json=report(phones or sightings()).model_dump(mode="json"))

    def lease(self) -> None:
        """The virtual phone begins to measure."""
        program = Program(
            layout="composed",
            architecture="a" * 64,
            executorch="1.4.1",
            quantisation=Quantisation(),
            vocab_size=2048,
            context_length=512,
            prefill_chunk=128,
            planned_memory=1_000_000,
            files={"b" * 64: 1000},
            stages=(StageSpec(name="all", file="b" * 64),),
        )
        work = MeasureJob(program=program, protocol=Protocol())
        self.services.queue.enqueue(work, VIRTUAL, "story", search=self.search, number=12)
        body = {"agent": "bench-1", "incarnation": "0" * 32, "serials": [VIRTUAL]}
        assert self.call("POST", "/v1/leases", json=body).status_code == 200

    def conclude(self) -> None:
        """The search ends, with candidate 6 as its winner."""
        reports = tuple(
            BudgetReport(
                budget=name,
                bound=bound,
                winner_value=value,
                keeps_probability=0.998 if name == "decode_ms" else 1.0,
                best_value=best,
                excluded=excluded,
                binding=name == "peak_memory_mb",
            )
            for (name, bound), value, best, excluded in zip(
                BUDGETS.items(), (1.72, 131.0, 6.9), (0.55, 38.0, 3.1), (2, 1, 2), strict=True
            )
        )
        why = "Of the feasible candidates, 6 has the best quality. Without the memory budget, candidate 8 would win."
        self.ledger.progress("done", 16, 16)
        self.ledger.conclude(Verdict(front=tuple(sorted(FRONT)), winner=6, budgets=reports, why=why))
        self.services.claims.finish_search(self.search, OWNER, WorkState.SUCCEEDED)

    def tell(self, stage: int, tokens: int) -> None:
        """A stage of the run trains on."""
        assert self.training is not None
        self.training.trained(stage, told(tokens), "training", tokens)

    def train(self) -> str:
        """A run of the winner that has spoken on the phone; returns its id."""
        self.report()
        body = {"search": self.search, "name": "first words", "prompt": "def add(", "new_tokens": 4}
        run = str(self.call("POST", "/v1/runs", json=body).json()["id"])
        assert self.services.claims.claim_run(OWNER) is not None
        self.training = ledger = RunLedger(self.services.database, run, OWNER)
        figures = [("teacher", 8.02, 1.91, 96.0), ("pretrain", 8.05, 2.02, 141.0), ("qat", 2.31, 2.07, 40.5)]
        for position, (name, before, after, seconds) in enumerate(figures):
            ledger.stage(
                position,
                StageRecord(
                    name=name,
                    state=WorkState.SUCCEEDED,
                    before={"bits_per_byte": before},
                    after={
                        "bits_per_byte": after,
                        "bits_per_byte/code": after - 0.2,
                        "bits_per_byte/prose": after + 0.1,
                    },
                    seconds=seconds,
                ),
            )
        with self.services.database.write() as session:
            for tokens in range(4_000, 320_001, 4_000):
                metrics.note(session, run, 1, told(tokens))
            metrics.note(session, run, 2, told(4_000))
        ledger.progress("generating on the phone", 3, 4)
        ledger.profile(VIRTUAL, profile(1.74, 133.0, 7.0))
        ledger.generation(spoken(), "a, b):\n    return a + b", CHECK)
        return run


def told(tokens: int) -> MetricPoint:
    """What a stage tells after so many tokens; held-out scores come seldom."""
    noise = 0.1 * math.sin(tokens * 1.7) + 0.06 * math.sin(tokens / 700)
    loss = 1.9 + 5.7 * math.exp(-tokens / 40_000) + noise
    values: dict[str, float | None] = {
        "loss": loss,
        "learning_rate": 0.012 * min(1.0, tokens / 20_000, (330_000 - tokens) / 160_000),
        "gradient_norm": None if tokens == 100_000 else 0.4 + 3.0 * math.exp(-tokens / 20_000) + abs(noise),
        "tokens_per_second": 11_800.0 + 900 * noise,
        "flops_utilisation": 0.412 + 0.05 * noise,
        "memory_bytes": 1.31e9,
    }
    if tokens % 32_000 == 0:
        bits = 0.5 + loss / 1.5
        values |= {"bits_per_byte": bits, "bits_per_byte/code": bits - 0.2, "bits_per_byte/prose": bits + 0.1}
    return MetricPoint(tokens=tokens, at=datetime.now(UTC), values=values)


CHECK = TokenCheck(tokens=4, agreed=4, max_logit_difference=0.012, passed=True)


def spoken() -> Generation:
    condition = Condition(taken_at=datetime.now(UTC))
    step = TokenStep(token=7, logit=4.0, runner_up=8, runner_up_logit=2.5, ns=2_000_000)
    return Generation(
        program="c" * 64,
        serial=VIRTUAL,
        virtual=True,
        prompt=(1, 2, 3),
        steps=(step,) * 4,
        prefill_ns=9_000_000,
        before=condition,
        after=condition,
        transfer=Transfer(pushed_bytes=0, pushed_files=0, kept_files=1, seconds=0.1),
    )
