"""What a worker remembers of its search or run, in the tables. Every write asks first whether it still holds it."""

import json
from collections.abc import Sequence

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from device_agent.contracts import Generation, Profile, Program, Sha256
from search.candidate import Candidate, Verdict
from server import events, metrics
from server.claims import held
from server.clock import Clock, utc_now
from server.database import Database
from server.runs import MetricPoint, Progress, StageRecord, TokenCheck
from server.tables import CandidateRow, ExportedBlockRow, RunRow, SearchRow, StageRow


class SearchLedger:
    """This is `search.ports.Ledger` for one search; raises OwnershipLost when another worker took it over."""

    def __init__(self, database: Database, search: str, owner: str, clock: Clock = utc_now) -> None:
        self._database, self._search, self._owner, self._clock = database, search, owner, clock
        self._told = Progress()

    def candidates(self) -> Sequence[Candidate]:
        """Every candidate so far, by number."""
        with self._database.read() as session:
            rows = select(CandidateRow.body_json).where(CandidateRow.search_id == self._search)
            bodies = session.scalars(rows.order_by(CandidateRow.number))
            return [Candidate.model_validate_json(body) for body in bodies]

    def remember(self, candidate: Candidate) -> None:
        """Insert or replace the candidate with this number; it came further, so attempts count from here."""
        with self._database.write() as session:
            search = self._held(session)
            row = session.get(CandidateRow, (self._search, candidate.number))
            if row is None:
                row = CandidateRow(search_id=self._search, number=candidate.number)
                session.add(row)
            row.phase, row.feasible = candidate.phase, candidate.feasible
            body = candidate.model_dump_json()
            if row.body_json != body:
                row.body_json, search.attempts = body, 1
            events.record(session, self._clock(), "candidate", str(candidate.number), self._search)

    def progress(self, message: str, done: int, total: int) -> None:
        """Say where the search is."""
        self._told = Progress(message=message, done=done, total=total)
        self._show(self._told)

    def waiting(self, why: str | None) -> None:
        """Say instead what a job waits for; None says again where the search is."""
        self._show(_instead(self._told, why))

    def _show(self, progress: Progress) -> None:
        with self._database.write() as session:
            self._held(session).progress_json = progress.model_dump_json()
            events.record(session, self._clock(), "search", self._search, self._search)

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        with self._database.read() as session:
            return session.get_one(SearchRow, self._search).cancel_requested

    def conclude(self, verdict: Verdict) -> None:
        """Keep the verdict; `Claims.finish_search` ends the search."""
        with self._database.write() as session:
            self._held(session).verdict_json = verdict.model_dump_json()
            events.record(session, self._clock(), "search", self._search, self._search)

    def _held(self, session: Session) -> SearchRow:
        return held(session, SearchRow, self._search, self._owner)


class SqlBlockCache:
    """This is `search.ports.BlockCache`: shared by all searches, since a key says all that determines a block."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database, self._clock = database, clock

    def get(self, key: Sha256) -> str | None:
        """The value kept under `key`, or None."""
        with self._database.read() as session:
            return session.scalar(select(ExportedBlockRow.value).where(ExportedBlockRow.key == key))

    def put(self, key: Sha256, value: str) -> None:
        """Keep a value; a later one replaces it."""
        with self._database.write() as session:
            session.merge(ExportedBlockRow(key=key, value=value, created_at=self._clock()))


class RunLedger:
    """What a run has done and found; raises OwnershipLost when another worker took it over."""

    def __init__(self, database: Database, run: str, owner: str, clock: Clock = utc_now) -> None:
        self._database, self._run, self._owner, self._clock = database, run, owner, clock
        self._told = Progress()

    def stages(self) -> Sequence[StageRecord]:
        """The stages in their order, as far as they are known."""
        with self._database.read() as session:
            return stages_of(session, self._run)

    def stage(self, position: int, record: StageRecord) -> None:
        """Insert or replace the stage at `position` (from 0)."""
        with self._database.write() as session:
            row = self._held(session)
            session.merge(StageRow(run_id=self._run, position=position, body_json=record.model_dump_json()))
            self._tell(session, row)

    def progress(self, message: str, done: int, total: int) -> None:
        """Say where the run is."""
        self._told = Progress(message=message, done=done, total=total)
        self._set(progress_json=self._told.model_dump_json())

    def trained(self, position: int, point: MetricPoint, message: str, total: int) -> None:
        """A point of the metrics of the stage at `position`, and where the run is with it: all at once."""
        self._told = Progress(message=message, done=point.tokens, total=total)
        with self._database.write() as session:
            row = self._held(session)
            metrics.note(session, self._run, position, point)
            row.progress_json = self._told.model_dump_json()
            self._tell(session, row)

    def reached(self, position: int, tokens: int) -> None:
        """A stage was begun or taken up at so many tokens, or those before it are done (0 tokens).

        Where no worker came before is further, and attempts count from there. What is trained and not yet saved is lost
        with its worker, so that only where it is taken up can tell.
        """
        with self._database.write() as session:
            row, here = self._held(session), [position, tokens]
            if here > json.loads(row.reached_json):
                row.reached_json, row.attempts = json.dumps(here), 1
                self._tell(session, row)

    def waiting(self, why: str | None) -> None:
        """Say instead what a job waits for; None says again where the run is."""
        self._set(progress_json=_instead(self._told, why).model_dump_json())

    def program(self, program: Program) -> None:
        """The exported Program."""
        self._set(program_json=program.model_dump_json())

    def profile(self, serial: str, profile: Profile) -> None:
        """What a phone's measurement says of the Program."""
        with self._database.write() as session:
            row = self._held(session)
            row.profiles_json = dump_profiles({**load_profiles(row.profiles_json), serial: profile})
            self._tell(session, row)

    def generation(self, generation: Generation, text: str, check: TokenCheck) -> None:
        """The continuation that the phone made, its text, and whether PyTorch agrees."""
        self._set(generation_json=generation.model_dump_json(), text=text, check_json=check.model_dump_json())

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        with self._database.read() as session:
            return session.get_one(RunRow, self._run).cancel_requested

    def _set(self, **columns: str) -> None:
        with self._database.write() as session:
            row = self._held(session)
            for name, value in columns.items():
                setattr(row, name, value)
            self._tell(session, row)

    def _tell(self, session: Session, row: RunRow) -> None:
        events.record(session, self._clock(), "run", self._run, row.search_id)

    def _held(self, session: Session) -> RunRow:
        return held(session, RunRow, self._run, self._owner)


def _instead(told: Progress, why: str | None) -> Progress:
    return told if why is None else told.model_copy(update={"message": f"waiting: {why}"})


def stages_of(session: Session, run: str) -> list[StageRecord]:
    """The stages of a run, in order."""
    rows = select(StageRow.body_json).where(StageRow.run_id == run).order_by(StageRow.position)
    return [StageRecord.model_validate_json(body) for body in session.scalars(rows)]


_PROFILES = TypeAdapter(dict[str, Profile])


def load_profiles(text: str) -> dict[str, Profile]:
    """Profiles by serial, from their column."""
    return _PROFILES.validate_json(text)


def dump_profiles(profiles: dict[str, Profile]) -> str:
    """Profiles by serial, for their column."""
    return _PROFILES.dump_json(profiles).decode()
