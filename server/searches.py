"""Searches as the API sees them: accept, show, cancel."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from device_agent.contracts import Fault, JobOutcome, Measurement, Success
from search.candidate import Candidate, Phase, Verdict
from search.front import front_of
from search.space import cheapest_violation
from search.spec import SearchSpec
from server import claims, events, idempotency
from server.api.views import CandidateView, Counts, SearchView
from server.clock import Clock, Ids, new_id, utc_now
from server.corpora import Corpora
from server.database import Database
from server.errors import BudgetOutOfReach, NotFound, PhoneNotReady, UnknownCorpus, UnknownPhone
from server.queue.phones import hindrance, require_serials
from server.queue.store import JobQueue
from server.runs import Progress, WorkState
from server.tables import CandidateRow, CorpusRow, JobRow, PhoneRow, SearchRow

_ROUTE = "POST /v1/searches"
_OUTCOME: TypeAdapter[JobOutcome] = TypeAdapter(JobOutcome)


class Searches:
    """Accepts, shows and cancels searches."""

    def __init__(
        self, database: Database, queue: JobQueue, corpora: Corpora, clock: Clock = utc_now, ids: Ids = new_id
    ) -> None:
        self._database, self._queue, self._corpora = database, queue, corpora
        self._clock, self._ids = clock, ids

    def submit(self, spec: SearchSpec, key: str | None = None) -> SearchView:
        """Queue a search; the same Idempotency-Key again gives the same search.

        A group or a tag among its phones stands for those who have it now.

        Raises:
            BudgetOutOfReach: nothing in the space can keep a budget.
            UnknownCorpus, UnknownPhone: what the spec names is not registered.
            PhoneNotReady: one of the phones could not take work now.
            TokenizerMissing, TrainerError: the tokenizer was never uploaded, cannot be read, or does not fit.
            KeyReused: the key came before with another spec.
        """
        impossible = cheapest_violation(spec)
        if impossible is not None:
            raise BudgetOutOfReach(impossible, advice="Raise the budget, or offer smaller widths and depths.")
        self._corpora.tokenizer(spec.tokenizer, spec.vocab_size)
        with self._database.write() as session:
            known = idempotency.answered(session, _ROUTE, key, spec)
            if known is not None:
                return _view(session, session.get_one(SearchRow, known))
            now = self._clock()
            asked, spec = spec, spec.model_copy(update={"phones": require_serials(session, spec.phones)})
            _require_parts(session, spec, now)
            row = SearchRow(
                id=self._ids(),
                name=spec.name,
                state=WorkState.QUEUED,
                created_at=now,
                spec_json=spec.model_dump_json(),
                progress_json=Progress(message="waiting for a worker").model_dump_json(),
                cancel_requested=False,
                attempts=0,
            )
            session.add(row)
            idempotency.remember(session, _ROUTE, key, asked, row.id, now)
            events.record(session, now, "search", row.id, row.id)
            session.flush()
            return _view(session, row)

    def view(self, search: str) -> SearchView:
        """One search.

        Raises:
            NotFound: no such search.
        """
        with self._database.read() as session:
            return _view(session, search_row(session, search))

    def all(self) -> list[SearchView]:
        """Every search, newest first."""
        with self._database.read() as session:
            rows = session.scalars(select(SearchRow).order_by(SearchRow.created_at.desc(), SearchRow.id))
            return [_view(session, row) for row in rows]

    def cancel(self, search: str) -> SearchView:
        """Ask a search to stop: at once while it waits, by its worker when it runs; one that ended stays as it is.

        Raises:
            NotFound: no such search.
        """
        with self._database.write() as session:
            row = search_row(session, search)
            if not WorkState(row.state).final:
                row.cancel_requested = True
                if row.state == WorkState.QUEUED:
                    row.state, row.finished_at = WorkState.CANCELLED, self._clock()
                self._queue.cancel_for(session, search=search)
                events.record(session, self._clock(), "search", search, search)
            return _view(session, row)

    def resume(self, search: str) -> SearchView:
        """Have a search that failed or was cancelled go on from its last candidate; one that is open stays as it is.

        Raises:
            NotFound: no such search.
            Conflict: it has succeeded.
        """
        with self._database.write() as session:
            row = search_row(session, search)
            claims.resume(session, self._queue, row, self._clock())
            return _view(session, row)

    def candidates(self, search: str) -> list[CandidateView]:
        """Every candidate by number, with the front so far, or the verdict's.

        Raises:
            NotFound: no such search.
        """
        with self._database.read() as session:
            row = search_row(session, search)
            bodies = session.scalars(
                select(CandidateRow.body_json).where(CandidateRow.search_id == search).order_by(CandidateRow.number)
            )
            candidates = [Candidate.model_validate_json(body) for body in bodies]
            verdict = _verdict(row)
        front = set(verdict.front) if verdict else _front_so_far(candidates)
        winner = verdict.winner if verdict else None
        return [CandidateView(**dict(c), on_front=c.number in front, winner=c.number == winner) for c in candidates]

    def measurements(self, search: str, number: int) -> list[Measurement]:
        """The raw measurements of one candidate, oldest first.

        Raises:
            NotFound: no such candidate.
        """
        with self._database.read() as session:
            search_row(session, search)
            if session.get(CandidateRow, (search, number)) is None:
                raise NotFound(f"search {search} has no candidate {number}")
            mine = JobRow.search_id == search, JobRow.number == number, JobRow.run_id.is_(None)
            rows = select(JobRow.outcome_json).where(*mine, JobRow.kind == "measure", JobRow.state == "succeeded")
            outcomes = session.scalars(rows.order_by(JobRow.created_at, JobRow.id)).all()
        answers = [_OUTCOME.validate_json(body) for body in outcomes if body is not None]
        return [a.result for a in answers if isinstance(a, Success) and isinstance(a.result, Measurement)]


def search_row(session: Session, search: str) -> SearchRow:
    """A search's row.

    Raises:
        NotFound: no such search.
    """
    row = session.get(SearchRow, search)
    if row is None:
        raise NotFound(f"there is no search {search}", advice="List them: `fulcrum search list`, or GET /v1/searches.")
    return row


def require_phone(session: Session, serial: str, now: datetime) -> None:
    """A phone that is registered and could take work now.

    Raises:
        UnknownPhone: the fleet has no such phone.
        PhoneNotReady: no work could reach it.
    """
    phone = session.get(PhoneRow, serial)
    if phone is None or not phone.registered:
        raise UnknownPhone(
            f"phone {serial} is not registered",
            advice='Register it: `fulcrum phone add`, or POST /v1/phones with {"serial": ...}.',
        )
    fault = hindrance(session, serial, now)
    if fault is not None:
        raise PhoneNotReady(fault.message, advice=fault.advice)


def _require_parts(session: Session, spec: SearchSpec, now: datetime) -> None:
    if session.get(CorpusRow, spec.corpus) is None:
        raise UnknownCorpus(
            f"there is no corpus {spec.corpus}", advice="Register it: `fulcrum corpus add`, or POST /v1/corpora."
        )
    for serial in spec.phones:
        require_phone(session, serial, now)


def _front_so_far(candidates: Sequence[Candidate]) -> set[int]:
    feasible = [c for c in candidates if c.feasible and c.values is not None]
    front = front_of([c.values for c in feasible if c.values is not None])
    return {feasible[i].number for i in front}


def _verdict(row: SearchRow) -> Verdict | None:
    return None if row.verdict_json is None else Verdict.model_validate_json(row.verdict_json)


def _counts(session: Session, search: str) -> Counts:
    columns = (CandidateRow.phase, CandidateRow.feasible, func.count())
    grouped = select(*columns).where(CandidateRow.search_id == search).group_by(*columns[:2])
    rows: list[tuple[str, bool, int]] = [(phase, feasible, n) for phase, feasible, n in session.execute(grouped)]
    return Counts(
        proposed=sum(n for _, _, n in rows),
        done=sum(n for phase, _, n in rows if phase == Phase.DONE),
        failed=sum(n for phase, _, n in rows if phase == Phase.FAILED),
        feasible=sum(n for _, feasible, n in rows if feasible),
    )


def _view(session: Session, row: SearchRow) -> SearchView:
    return SearchView(
        id=row.id,
        name=row.name,
        state=WorkState(row.state),
        spec=SearchSpec.model_validate_json(row.spec_json),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        progress=Progress.model_validate_json(row.progress_json),
        verdict=_verdict(row),
        fault=None if row.fault_json is None else Fault.model_validate_json(row.fault_json),
        attempts=row.attempts,
        counts=_counts(session, row.id),
    )
