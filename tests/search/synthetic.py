"""An in-memory world for searches: a landscape with a trade-off, ledgers that die on purpose, phones that crash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from device_agent.contracts import (
    Blame,
    Block,
    Condition,
    Figure,
    FulcrumError,
    Measurement,
    Profile,
    Program,
    Protocol,
    Quantisation,
    StageSpec,
    StageTimes,
    Transfer,
    content_hash,
)
from search.candidate import Candidate, Phase, Quality, Verdict
from search.driver import run
from search.objectives import bounds
from search.ports import Exported, World
from search.space import KNOBS, architecture_of
from search.spec import SearchSpec
from search.study import Proposal
from trainer.architecture import Architecture, Attention

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    """The process died here."""


class Crash(FulcrumError):
    blame = Blame.PHONE
    slug = "runner-crashed"


class Unplugged(FulcrumError):
    blame = Blame.INFRASTRUCTURE
    slug = "no-agent"


def spec_of(**changes: Any) -> SearchSpec:
    plain: dict[str, Any] = {"corpus": "c", "phones": ("p1",), "vocab_size": 1024, "effort": {"candidates": 12}}
    return SearchSpec.model_validate(plain | changes)


def bits_per_byte(architecture: Architecture) -> float:
    """Falls with size, has its best share of attention at a third, and likes attention late."""
    at = [i for i, b in enumerate(architecture.blocks) if isinstance(b, Attention)]
    share = len(at) / architecture.depth
    centre = sum(at) / len(at) / architecture.depth if at else 0.5
    size = (architecture.parameters - architecture.vocab_size * architecture.width) / 1e6
    heads = {b.kv_heads for b in architecture.blocks if isinstance(b, Attention)}
    return 1.5 + 1.2 / (size + 0.3) ** 0.3 + 0.6 * (share - 0.33) ** 2 - 0.05 * centre - 0.02 * len(heads & {2, 4})


def block_ms(architecture: Architecture) -> list[float]:
    """What each block takes of a decoded token, in the order of a Program's stages."""
    a, times = architecture, [0.0]
    for block in a.blocks:
        ffn = 3 * a.width * a.ffn_width
        call = 0.13 if isinstance(block, Attention) else 0.05
        times += [call + (a.block_parameters(block) - ffn) / 2.5e6, ffn / 2.5e6]
    return [*times, (a.vocab_size + 1) * a.width / 2.5e6]


def decode_ms(architecture: Architecture) -> float:
    return sum(block_ms(architecture))


def memory_bytes(architecture: Architecture) -> int:
    kv = sum(2 * 160 * b.kv_heads * b.head_dim * 4 for b in architecture.blocks if isinstance(b, Attention))
    return int(architecture.parameters * 0.9 + kv + 500_000)


def measurement_of(
    architecture: Architecture, program: Program, protocol: Protocol, phone: str, slower: float
) -> Measurement:
    slow = slower * (1.0 if phone == "p1" else 1.3)
    blocks = tuple(_block(architecture, protocol, slow * (1 + 0.01 * i)) for i in range(protocol.blocks))
    condition = Condition(taken_at=NOW)
    return Measurement(
        program=program.hash,
        serial=phone,
        virtual=True,
        runner="synthetic",
        protocol=protocol,
        before=condition,
        after=condition,
        blocks=blocks,
        memory=blocks[0],
        transfer=Transfer(pushed_bytes=1, pushed_files=1, kept_files=0, seconds=0.25),
        run_seconds=0.5,
        stages=_stages(architecture, protocol, slow) if protocol.stage_times else (),
    )


def _stages(architecture: Architecture, protocol: Protocol, factor: float) -> tuple[StageTimes, ...]:
    """With a clock around every block, which costs a little itself."""
    times = [int(ms * 1e6 * factor) + 1000 for ms in block_ms(architecture)]
    prompt = protocol.prefill_tokens // 8
    return tuple(
        StageTimes(stage=str(i), prefill_ns=(ns * prompt,) * 2, decode_ns=(ns,) * 4) for i, ns in enumerate(times)
    )


def _block(architecture: Architecture, protocol: Protocol, factor: float) -> Block:
    token = int(decode_ms(architecture) * 1e6 * factor)
    return Block(
        load_ns=1_000_000,
        prefill_ns=(token * protocol.prefill_tokens // 8,) * protocol.repetitions,
        decode_ns=((token,) * protocol.decode_tokens,) * protocol.repetitions,
        baseline_bytes=10_000_000,
        peak_bytes=10_000_000 + memory_bytes(architecture),
    )


def program_of(architecture: Architecture) -> Program:
    return Program(
        layout="composed",
        architecture=architecture.hash,
        executorch="1.4.1",
        quantisation=Quantisation(),
        vocab_size=architecture.vocab_size,
        context_length=512,
        prefill_chunk=128,
        planned_memory=1,
        files={content_hash(architecture.width): 1},
        stages=(StageSpec(name="all", file=content_hash(architecture.width)),),
    )


@dataclass
class Synthetic:
    """Everything that outlives a process (rows, bytes), and the ports over it. `die_at` counts port calls.

    `left` collects what a process that died at each call would leave: alike ones in a row once.
    """

    rows: dict[int, Candidate] = field(default_factory=dict)
    history: list[Candidate] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    linked: list[str] = field(default_factory=list)
    by_program: dict[str, Architecture] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    messages: list[str] = field(default_factory=list, compare=False)
    scored: list[str] = field(default_factory=list)
    measured: list[tuple[int, str, int]] = field(default_factory=list)
    calls: int = field(default=0, compare=False)
    die_at: int | None = None
    left: list[Synthetic] | None = field(default=None, compare=False)
    stop: bool = False
    crash: Callable[[Architecture], Exception | None] = lambda _: None
    again: Callable[[Architecture], float | Exception] = lambda _: 1.0  # how much slower when measured again
    refuse_export: Callable[[Architecture], Exception | None] = lambda _: None
    refuse_link: Callable[[Architecture], Exception | None] = lambda _: None
    refuse_score: Callable[[Architecture], Exception | None] = lambda _: None

    def world(self) -> World:
        executor = ThreadPoolExecutor(1)
        return World(self, self, self, self.export, self.link, self.measure, self.score, executor)  # type: ignore[arg-type]

    def _tick(self) -> None:
        self.calls += 1
        if self.left is not None:
            kept = {name: copy(value) for name, value in vars(self).items() if isinstance(value, dict | list)}
            state = replace(self, **kept | {"left": None})
            self.left += [state] if self.left[-1:] != [state] else []
        if self.calls == self.die_at:
            raise Killed(self.calls)

    def candidates(self) -> Sequence[Candidate]:
        return [self.rows[n] for n in sorted(self.rows)]

    def remember(self, candidate: Candidate) -> None:
        self._tick()
        self.rows[candidate.number] = Candidate.model_validate_json(candidate.model_dump_json())
        self.history.append(candidate)
        self._tick()

    def progress(self, message: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.messages.append(message)

    def cancelled(self) -> bool:
        self._tick()
        return self.stop

    def conclude(self, verdict: Verdict) -> None:
        self._tick()
        self.verdicts.append(verdict)

    def put(self, data: bytes) -> str:
        self._tick()
        name = hashlib.sha256(data).hexdigest()
        self.kept[name] = data
        return name

    def get(self, sha256: str) -> bytes:
        return self.kept[sha256]

    def export(
        self, architectures: Sequence[Architecture], spec: SearchSpec, store: Any, cache: Any, executor: Executor
    ) -> list[Exported | Exception]:
        self._tick()
        outcomes: list[Exported | Exception] = []
        for architecture in architectures:
            program = program_of(architecture)
            self.by_program[program.hash] = architecture
            outcomes.append(self.refuse_export(architecture) or Exported(program, 0.1, 2.0))
        return outcomes

    def link(self, composed: Program, store: Any) -> Exported:
        self._tick()
        architecture = self.by_program[composed.hash]
        if error := self.refuse_link(architecture):
            raise error
        program = composed.model_copy(update={"layout": "monolithic"})
        self.by_program[program.hash] = architecture
        self.linked.append(architecture.hash)
        return Exported(program, 0.0, 0.25)

    def measure(self, program: Program, protocol: Protocol, phone: str, number: int, session: int = 0) -> Measurement:
        self._tick()
        architecture = self.by_program[program.hash]
        assert self.rows[number].architecture == architecture
        assert program.layout == ("monolithic" if session else "composed")
        if error := self.crash(architecture):
            raise error
        slower = self.again(architecture) if session else 1.0
        if isinstance(slower, Exception):
            raise slower
        self.measured.append((number, phone, session))
        return measurement_of(architecture, program, protocol, phone, slower)

    def score(self, architectures: Sequence[Architecture]) -> list[tuple[Quality, float] | Exception]:
        self._tick()
        self.scored += [a.hash for a in architectures]
        outcomes: list[tuple[Quality, float] | Exception] = []
        for a in architectures:
            outcomes.append(self.refuse_score(a) or (Quality(bits_per_byte=bits_per_byte(a), tokens=1), 3.0))
        return outcomes


def finished(spec: SearchSpec, proposal: Proposal, *, failed: bool) -> Candidate:
    """What a proposal comes to in this world."""
    architecture = proposal.architecture
    values = (bits_per_byte(architecture), decode_ms(architecture), memory_bytes(architecture) / 1e6)
    violations = {name: decode_ms(architecture) / bound - 1 for name, bound in bounds(spec.budgets).items()}
    return Candidate(
        number=proposal.number,
        params=dict(proposal.params),
        architecture=architecture,
        parameters=architecture.parameters,
        phase=Phase.FAILED if failed else Phase.DONE,
        values=tuple(2 * v for v in values) if failed else values,
        violations={} if failed else violations,
        fault=Crash("killed").as_fault() if failed else None,
    )


def crash_rows(spec: SearchSpec) -> list[Candidate]:
    """A finished ledger in which the larger models crashed."""
    world = Synthetic(crash=lambda a: Crash("killed") if a.depth == 8 else None)
    run(spec, world.world())
    return list(world.candidates())


def figure(value: float, margin: float) -> Figure:
    return Figure(value=value, low=value - margin, high=value + margin)


def row(number: int, *, bits: float, decode: Figure, megabytes: float) -> Candidate:
    """A finished candidate with these figures on p1."""
    params = dict.fromkeys(KNOBS, 0)
    profile = Profile(
        ttft_ms=decode,
        prefill_tokens_per_second=decode,
        decode_ms=decode,
        decode_p95_ms=decode,
        load_ms=decode,
        peak_memory_bytes=int(megabytes * 1e6),
    )
    return Candidate(
        number=number,
        params=dict(params),
        architecture=architecture_of(params, spec_of()),
        parameters=1000,
        phase=Phase.DONE,
        profiles={"p1": profile},
        quality=Quality(bits_per_byte=bits, tokens=1),
        values=(bits, decode.value, megabytes),
    )
