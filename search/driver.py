"""Drives a search from the first proposal to the verdict, and goes on from the ledger wherever it was stopped.

Batch after batch: propose, export, measure, score, tell. Every step writes its candidate to the ledger before the
next begins, so a process may die at any line: the next one finds each candidate in the phase it reached and takes it
up there. Phones are measured one after the other while nothing else runs, since the milliseconds of a virtual phone
are this host's. After the last batch the finalists' blocks are linked into one file each, as what ships is, and
measured again; the verdict follows.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, TypeVar

from device_agent.contracts import Blame, Fault, FulcrumError, Measurement, Profile, Program, Sha256, canonical_json
from search.blame import fault_of_candidate
from search.candidate import BlockTimes, Candidate, Phase, Predicted, Quality, Verdict
from search.errors import SearchCancelled, SearchStalled
from search.finalists import finalists
from search.latency import LatencyPredictor
from search.mirror import Mirror
from search.objectives import known_values, pessimistic_values, violations
from search.ports import Exported, World
from search.space import distinct
from search.spec import SearchSpec
from search.study import SearchStudy
from search.verdict import decide

_Outcome = TypeVar("_Outcome")

PATIENCE = 8  # failures in a row, all of one kind, before a search gives up


def run(spec: SearchSpec, world: World, mirror: Mirror | None = None) -> Verdict:
    """Run a search to its end, from wherever its ledger stands.

    Raises:
        SearchCancelled: the user asked to stop.
        SearchStalled: the last 8 candidates failed in the same way.
        FulcrumError: a fault of user or infrastructure; the ledger is whole, so that calling again carries on.
    """
    return _Search(spec, world, mirror).run()


class _Search:
    def __init__(self, spec: SearchSpec, world: World, mirror: Mirror | None) -> None:
        self._spec, self._world, self._mirror = spec, world, mirror
        self._rows = {candidate.number: candidate for candidate in world.ledger.candidates()}
        self._study = SearchStudy(spec, self._rows.values())
        self._total = min(spec.effort.candidates, distinct(spec.space))

    def run(self) -> Verdict:
        size = self._spec.effort.batch
        for first in range(0, self._spec.effort.candidates, size):
            numbers = range(first, min(first + size, self._spec.effort.candidates))
            if not self._propose(numbers):
                break
            self._export(numbers)
            self._measure(numbers)
            self._score(numbers)
            self._tell(numbers)
        self._race()
        verdict = decide(self._spec, self._rows.values())
        self._world.ledger.conclude(verdict)
        return verdict

    def _propose(self, numbers: range) -> bool:
        """Fill the batch; False if the space has nothing left for it."""
        for number in numbers:
            if number in self._rows:
                continue
            self._step("proposing")
            proposal = self._study.ask()
            if proposal is None:
                break
            self._remember(
                Candidate(
                    number=number,
                    params=dict(proposal.params),
                    architecture=proposal.architecture,
                    parameters=proposal.architecture.parameters,
                )
            )
        return numbers.start in self._rows

    def _export(self, numbers: range) -> None:
        batch = self._in_phase(numbers, Phase.PROPOSED)
        if not batch:
            return
        self._step(f"exporting {_list(batch)}")
        world = self._world
        outcomes = world.export([c.architecture for c in batch], self._spec, world.store, world.cache, world.executor)
        self._each(batch, outcomes, self._exported)

    def _exported(self, candidate: Candidate, exported: Exported) -> Candidate:
        seconds = {"build": exported.build_seconds, "export": exported.export_seconds}
        return candidate.model_copy(
            update={
                "phase": Phase.EXPORTED,
                "program": self._world.store.put(canonical_json(exported.program)),
                "seconds": candidate.seconds | seconds,
            }
        )

    def _measure(self, numbers: range) -> None:
        for candidate in self._in_phase(numbers, Phase.EXPORTED):
            for phone in self._spec.phones:
                self._measure_on(candidate.number, phone)
            reached = self._rows[candidate.number]
            if reached.phase is Phase.EXPORTED:
                self._remember(reached.model_copy(update={"phase": Phase.MEASURED}))

    def _measure_on(self, number: int, phone: str) -> None:
        candidate = self._rows[number]
        if candidate.phase is Phase.FAILED or phone in candidate.profiles or candidate.program is None:
            return
        self._step(f"measuring candidate {number} on {phone}")
        expected = self._predicted(candidate, phone)
        measurement = self._ask(phone, number, candidate.program, session=0)
        if isinstance(measurement, Fault):
            self._remember(_failed(candidate, measurement))
            return
        seconds = dict(candidate.seconds)
        for part, spent in (("push", measurement.transfer.seconds), ("run", measurement.run_seconds)):
            seconds[part] = seconds.get(part, 0.0) + spent
        found: dict[str, Any] = {"profiles": candidate.profiles | {phone: Profile.of(measurement)}, "seconds": seconds}
        if measurement.stages:
            found["blocks"] = candidate.blocks | {phone: _block_times(measurement)}
        if expected is not None:
            found["predicted"] = candidate.predicted | {phone: expected}
        self._remember(candidate.model_copy(update=found))

    def _predicted(self, candidate: Candidate, phone: str) -> Predicted | None:
        """From the candidates before it alone, so that whoever carries on expects the same."""
        before = [c for n, c in sorted(self._rows.items()) if n < candidate.number]
        predictor = LatencyPredictor.of(self._spec, before, phone)
        return None if predictor is None else predictor.predict(candidate.architecture)

    def _race(self) -> None:
        """Measure the finalists again, all after the last batch: in another session than made them finalists."""
        for number in finalists(self._spec, self._rows.values()):
            self._link(number)
            for phone in self._spec.phones:
                self._confirm_on(number, phone)

    def _link(self, number: int) -> None:
        """What ships is one file, so it is one file that is confirmed."""
        candidate = self._rows[number]
        if candidate.linked is not None or candidate.finalist or candidate.program is None:
            return
        self._step(f"linking finalist {number}")
        world, composed = self._world, self._stored(candidate.program)
        try:
            linked = world.link(composed, world.store)
        except FulcrumError as error:
            self._remember(candidate.model_copy(update={"confirm_fault": fault_of_candidate(error)}))
            return
        program = world.store.put(canonical_json(linked.program))
        seconds = candidate.seconds | {"link": linked.export_seconds}
        self._remember(candidate.model_copy(update={"linked": program, "seconds": seconds}))

    def _confirm_on(self, number: int, phone: str) -> None:
        candidate = self._rows[number]
        if candidate.confirm_fault is not None or phone in candidate.confirmed or candidate.linked is None:
            return
        self._step(f"measuring finalist {number} again on {phone}")
        measurement = self._ask(phone, number, candidate.linked, session=1)
        if isinstance(measurement, Fault):
            self._remember(candidate.model_copy(update={"confirm_fault": measurement}))
            return
        spent = candidate.seconds.get("confirm", 0.0) + measurement.transfer.seconds + measurement.run_seconds
        confirmed = candidate.confirmed | {phone: Profile.of(measurement)}
        seconds = candidate.seconds | {"confirm": spent}
        self._remember(candidate.model_copy(update={"confirmed": confirmed, "seconds": seconds}))

    def _ask(self, phone: str, number: int, program: Sha256, session: int) -> Measurement | Fault:
        """What a phone says of a Program, or the candidate's own fault. Raises the world's."""
        stored, protocol = self._stored(program), self._spec.protocol
        if self._spec.effort.block_times and stored.layout == "composed":
            protocol = protocol.model_copy(update={"stage_times": True})
        try:
            return self._world.measure(stored, protocol, phone, number, session)
        except FulcrumError as error:
            return fault_of_candidate(error)

    def _stored(self, program: Sha256) -> Program:
        return Program.model_validate_json(self._world.store.get(program))

    def _score(self, numbers: range) -> None:
        batch = self._in_phase(numbers, Phase.MEASURED)
        if not batch:
            return
        self._step(f"training {_list(batch)} for a score")
        self._each(batch, self._world.score([c.architecture for c in batch]), self._scored)

    def _scored(self, candidate: Candidate, outcome: tuple[Quality, float]) -> Candidate:
        quality, seconds = outcome
        if not math.isfinite(quality.bits_per_byte):
            message = f"its proxy training ended at {quality.bits_per_byte} bits per byte"
            return _failed(candidate, Fault(blame=Blame.US, slug="score-not-finite", message=message))
        known = known_values(self._spec, candidate.profiles, quality)
        return candidate.model_copy(
            update={
                "phase": Phase.DONE,
                "quality": quality,
                "values": tuple(known[name] for name in self._spec.objectives),
                "violations": violations(self._spec, candidate.profiles),
                "seconds": candidate.seconds | {"score": seconds},
            }
        )

    def _tell(self, numbers: range) -> None:
        """Give the failed their values, tell the study, and see whether going on makes sense."""
        done = [c for c in self._rows.values() if c.phase is Phase.DONE and c.number < numbers.stop]
        batch = [self._rows[n] for n in numbers if n in self._rows]
        for candidate in batch:
            if candidate.phase is Phase.FAILED and candidate.values is None:
                values = pessimistic_values(self._spec, candidate, done)
                broken = violations(self._spec, candidate.profiles) if candidate.profiles else {}
                self._remember(candidate.model_copy(update={"values": values, "violations": broken}))
            self._study.tell(self._rows[candidate.number])
        if self._mirror is not None:
            self._mirror.update(self._spec, [c for c in self._rows.values() if c.number < numbers.stop])
        self._give_up_if_stalled(numbers.stop)

    def _give_up_if_stalled(self, stop: int) -> None:
        tail = [self._rows[n].fault for n in range(max(0, stop - PATIENCE), stop) if n in self._rows]
        last = tail[-1] if tail else None
        if last is not None and len(tail) == PATIENCE and all(f is not None and f.slug == last.slug for f in tail):
            raise SearchStalled(last, PATIENCE)

    def _each(
        self,
        batch: Sequence[Candidate],
        outcomes: Sequence[_Outcome | Exception],
        accept: Callable[[Candidate, _Outcome], Candidate],
    ) -> None:
        """Write what worked, then what failed by its own fault; a fault of the world is raised last."""
        world_fault: FulcrumError | None = None
        for candidate, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                self._remember(accept(candidate, outcome))
                continue
            try:
                self._remember(_failed(candidate, fault_of_candidate(outcome)))
            except FulcrumError as error:
                world_fault = error
        if world_fault is not None:
            raise world_fault

    def _in_phase(self, numbers: range, phase: Phase) -> list[Candidate]:
        return [self._rows[n] for n in numbers if n in self._rows and self._rows[n].phase is phase]

    def _remember(self, candidate: Candidate) -> None:
        self._world.ledger.remember(candidate)
        self._rows[candidate.number] = candidate

    def _step(self, message: str) -> None:
        """Between steps: stop if asked to, say what comes."""
        if self._world.ledger.cancelled():
            raise SearchCancelled("the search was cancelled", advice="Its candidates so far stay in the ledger.")
        final = sum(c.phase in (Phase.DONE, Phase.FAILED) for c in self._rows.values())
        self._world.ledger.progress(message, final, self._total)


def _failed(candidate: Candidate, fault: Fault) -> Candidate:
    return candidate.model_copy(update={"phase": Phase.FAILED, "fault": fault})


def _block_times(measurement: Measurement) -> BlockTimes:
    def medians(samples: Iterable[Sequence[int]]) -> tuple[float, ...]:
        return tuple(float(f"{median(one) / 1e6:.4g}") for one in samples)

    stages = measurement.stages
    return BlockTimes(prefill_ms=medians(s.prefill_ns for s in stages), decode_ms=medians(s.decode_ns for s in stages))


def _list(batch: Sequence[Candidate]) -> str:
    numbers = ", ".join(str(c.number) for c in batch)
    return f"candidate {numbers}" if len(batch) == 1 else f"candidates {numbers}"
