"""Runs as the API sees them: accept, show, cancel."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from device_agent.contracts import Fault, Generation, Program
from search.candidate import Candidate, Verdict
from search.spec import SearchSpec
from server import claims, events, idempotency, metrics, teachers
from server.api.views import RunView, StageMetrics, StageView
from server.clock import Clock, Ids, new_id, utc_now
from server.database import Database
from server.errors import NotFound, NoWinner, StagesApart
from server.ledger import load_profiles, stages_of
from server.queue.store import JobQueue
from server.runs import Progress, RunSpec, StageRecord, TokenCheck, WorkState
from server.searches import require_phone, search_row
from server.series import LIMIT
from server.tables import CandidateRow, RunRow, SearchRow, StageRow
from trainer.architecture import Architecture
from trainer.options import LACKING, lacking

_ROUTE = "POST /v1/runs"


class Runbook:
    """Accepts, shows and cancels runs."""

    def __init__(self, database: Database, queue: JobQueue, clock: Clock = utc_now, ids: Ids = new_id) -> None:
        self._database, self._queue, self._clock, self._ids = database, queue, clock, ids

    def submit(self, spec: RunSpec, key: str | None = None) -> RunView:
        """Queue a run of a candidate; the same Idempotency-Key again gives the same run.

        Raises:
            NotFound: no such search or candidate.
            NoWinner: the winner is asked for, and there is none.
            UnknownPhone: the phone is not registered.
            PhoneNotReady: the phone could not take work now.
            TeacherNotReady, TeacherUnfit: a run that a stage names as its teacher cannot be one.
            StagesApart: a stage needs what none before it makes.
            KeyReused: the key came before with another spec.
        """
        with self._database.write() as session:
            known = idempotency.answered(session, _ROUTE, key, spec)
            if known is not None:
                return _view(session, session.get_one(RunRow, known))
            now = self._clock()
            search = search_row(session, spec.search)
            candidate = _candidate(session, search, spec.candidate)
            phone = spec.phone or SearchSpec.model_validate_json(search.spec_json).phones[0]
            require_phone(session, phone, now)
            _require_together(spec)
            teachers.require(session, spec.stages, candidate.architecture)
            row = RunRow(
                id=self._ids(),
                name=spec.name,
                state=WorkState.QUEUED,
                created_at=now,
                search_id=spec.search,
                number=candidate.number,
                spec_json=spec.model_dump_json(),
                architecture_json=candidate.architecture.model_dump_json(),
                progress_json=Progress(message="waiting for a worker").model_dump_json(),
                profiles_json="{}",
                cancel_requested=False,
                attempts=0,
            )
            session.add(row)
            for position, stage in enumerate(spec.stages):
                body = StageRecord(name=stage.name, makes=stage.lever.makes).model_dump_json()
                session.add(StageRow(run_id=row.id, position=position, body_json=body))
            idempotency.remember(session, _ROUTE, key, spec, row.id, now)
            events.record(session, now, "run", row.id, spec.search)
            session.flush()
            return _view(session, row)

    def view(self, run: str) -> RunView:
        """One run.

        Raises:
            NotFound: no such run.
        """
        with self._database.read() as session:
            return _view(session, _row(session, run))

    def metrics(
        self, run: str, *, stage: int | None = None, names: tuple[str, ...] = (), since: int = 0, limit: int = LIMIT
    ) -> list[StageMetrics]:
        """What a run's stages told of themselves, or the one at position `stage`; see `server.metrics.series`.

        Raises:
            NotFound: no such run, or no such stage of it.
        """
        with self._database.read() as session:
            _row(session, run)
            stages = stages_of(session, run)
            if stage is not None and stage >= len(stages):
                raise NotFound(
                    f"run {run} has no stage {stage}", advice=f"Its stages are 0 to {len(stages) - 1}, in their order."
                )
            return [
                StageMetrics(
                    position=position,
                    name=record.name,
                    points=metrics.series(session, run, position, since=since, names=names, limit=limit),
                )
                for position, record in enumerate(stages)
                if stage in (None, position)
            ]

    def all(self) -> list[RunView]:
        """Every run, newest first."""
        with self._database.read() as session:
            rows = session.scalars(select(RunRow).order_by(RunRow.created_at.desc(), RunRow.id))
            return [_view(session, row) for row in rows]

    def cancel(self, run: str) -> RunView:
        """Ask a run to stop: at once while it waits, by its worker when it runs; one that ended stays as it is.

        Raises:
            NotFound: no such run.
        """
        with self._database.write() as session:
            row = _row(session, run)
            if not WorkState(row.state).final:
                row.cancel_requested = True
                if row.state == WorkState.QUEUED:
                    row.state, row.finished_at = WorkState.CANCELLED, self._clock()
                self._queue.cancel_for(session, run=run)
                events.record(session, self._clock(), "run", run, row.search_id)
            return _view(session, row)

    def resume(self, run: str) -> RunView:
        """Have a run that failed or was cancelled go on from its last checkpoint; one that is open stays as it is.

        Raises:
            NotFound: no such run.
            Conflict: it has succeeded.
        """
        with self._database.write() as session:
            row = _row(session, run)
            claims.resume(session, self._queue, row, self._clock())
            return _view(session, row)


def _require_together(spec: RunSpec) -> None:
    missing = lacking(stage.lever for stage in spec.stages)
    if missing is not None:
        position, what = missing
        words, advice = LACKING[what]
        raise StagesApart(f"stage {position + 1}, {spec.stages[position].name}, needs {words}", advice=advice)


def _candidate(session: Session, search: SearchRow, number: int | None) -> Candidate:
    if number is None:
        verdict = None if search.verdict_json is None else Verdict.model_validate_json(search.verdict_json)
        if verdict is None or verdict.winner is None:
            raise NoWinner(
                f"search {search.id} has no winner; it is {search.state}",
                advice="Wait until the search has succeeded, or name a candidate by its number.",
            )
        number = verdict.winner
    row = session.get(CandidateRow, (search.id, number))
    if row is None:
        raise NotFound(
            f"search {search.id} has no candidate {number}",
            advice=f"See them: `fulcrum search candidates {search.id}`, or GET /v1/searches/{search.id}/candidates.",
        )
    return Candidate.model_validate_json(row.body_json)


def _row(session: Session, run: str) -> RunRow:
    row = session.get(RunRow, run)
    if row is None:
        raise NotFound(f"there is no run {run}", advice="List them: `fulcrum run list`, or GET /v1/runs.")
    return row


def _view(session: Session, row: RunRow) -> RunView:
    spec = RunSpec.model_validate_json(row.spec_json)
    return RunView(
        id=row.id,
        name=row.name,
        state=WorkState(row.state),
        spec=spec,
        candidate=row.number,
        architecture=Architecture.model_validate_json(row.architecture_json),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        progress=Progress.model_validate_json(row.progress_json),
        stages=tuple(StageView.of(*each) for each in zip(stages_of(session, row.id), spec.stages, strict=True)),
        program=None if row.program_json is None else Program.model_validate_json(row.program_json),
        profiles=load_profiles(row.profiles_json),
        generation=None if row.generation_json is None else Generation.model_validate_json(row.generation_json),
        check=None if row.check_json is None else TokenCheck.model_validate_json(row.check_json),
        text=row.text,
        fault=None if row.fault_json is None else Fault.model_validate_json(row.fault_json),
        attempts=row.attempts,
    )
