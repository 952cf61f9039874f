"""What the search needs of the world. The server wires these to its database, its queue and its disk."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol as Port

from device_agent.contracts import Measurement, Program, Protocol, Sha256
from search.candidate import Candidate, Quality, Verdict
from search.spec import SearchSpec
from trainer.architecture import Architecture


class Measure(Port):
    """Runs a Program on a phone and waits; idempotent by (program, protocol, phone, number, session).

    Session 0 is the search's own measurement, of a composed Program; session 1 that of the finalists' race, of a
    linked one.
    """

    def __call__(self, program: Program, protocol: Protocol, phone: str, number: int, session: int = 0) -> Measurement:
        """Raises FulcrumError, whose blame says whether the candidate or the world failed."""
        ...


class Score(Port):
    """Scores architectures by a short training on real text; several at once where cores allow."""

    def __call__(self, architectures: Sequence[Architecture]) -> Sequence[tuple[Quality, float] | Exception]:
        """One (quality, seconds) or exception per architecture, in order."""
        ...


class Store(Port):
    """Content-addressed bytes."""

    def put(self, data: bytes) -> Sha256:
        """Keep `data`; returns its name."""
        ...

    def get(self, sha256: Sha256) -> bytes:
        """What was kept under this name. Raises FulcrumError (infrastructure) if it is gone."""
        ...


class BlockCache(Port):
    """Remembers exported blocks by the hash of what determines them (a JSON value under a key)."""

    def get(self, key: Sha256) -> str | None:
        """The value kept under `key`, or None."""
        ...

    def put(self, key: Sha256, value: str) -> None:
        """Keep a value."""
        ...


class Ledger(Port):
    """Remembers candidates: the one truth from which a study is rebuilt."""

    def candidates(self) -> Sequence[Candidate]:
        """Every candidate so far, by number."""
        ...

    def remember(self, candidate: Candidate) -> None:
        """Insert or replace the candidate with this number."""
        ...

    def progress(self, message: str, done: int, total: int) -> None:
        """Say where the search is."""
        ...

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        ...

    def conclude(self, verdict: Verdict) -> None:
        """The end."""
        ...


@dataclass(frozen=True)
class Exported:
    """A Program whose files are in the store, and the seconds it took."""

    program: Program
    build_seconds: float
    export_seconds: float


class Export(Port):
    """Builds architectures with untrained weights and exports them, distinct blocks side by side."""

    def __call__(
        self,
        architectures: Sequence[Architecture],
        spec: SearchSpec,
        store: Store,
        cache: BlockCache,
        executor: Executor,
    ) -> Sequence[Exported | Exception]:
        """One Program or exception per architecture, in order."""
        ...


class Link(Port):
    """Makes one file of a composed Program's blocks; the same blocks give the same Program."""

    def __call__(self, composed: Program, store: Store) -> Exported:
        """Raises FulcrumError if they do not fit together."""
        ...


@dataclass(frozen=True)
class World:
    """All that a search needs from outside."""

    ledger: Ledger
    store: Store
    cache: BlockCache
    export: Export
    link: Link
    measure: Measure
    score: Score
    executor: Executor
