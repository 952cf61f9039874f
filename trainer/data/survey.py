"""The first reading of all sources: what cleaning removes, how much stays, and which documents are held out."""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from trainer.cleaners.cleaner import Cleaner, Removed
from trainer.cleaning import Cleaning
from trainer.data.split import Places, place
from trainer.errors import CorpusError
from trainer.sources import Source

Report = Callable[[str, int, int], None]
Texts = Callable[[], Iterator[str]]

_PACE = 1 << 18


class Paced:
    """Counts characters and reports now and then: who listens may write it down."""

    def __init__(self, report: Report, message: str, done: int = 0) -> None:
        self._report, self._message, self.done = report, message, done
        self._told = done

    def more(self, characters: int, total: int) -> None:
        """Count a document; a total by bytes may turn out too small."""
        self.done += characters
        if self.done - self._told >= _PACE or self.done >= total > self._told:
            self._told = self.done
            self._report(self._message, self.done, max(total, self.done))


def surveyed(
    directory: Path, sources: Sequence[Source], seed: int, cleaning: Cleaning, report: Report
) -> dict[str, Any]:
    """Read everything once; what stays of each source is a byte per document in `directory`.

    Raises:
        CorpusError: nothing there, nothing left, or one document only.
    """
    places, reading = Places(), _Reading(cleaning, sources, report)
    described = []
    for number, source in enumerate(sources):
        removed, verdicts = Removed(), bytearray()
        places.source((place(text, seed), len(text)) for text in reading.staying(source, removed, verdicts))
        if removed.reasons:
            _verdicts(directory, number).write_bytes(verdicts)
        described.append({"documents": len(verdicts), "removed": removed.reasons})
    if not places.documents:
        raise _nothing(sources, described)
    chosen = places.chosen()
    return {
        "documents": places.documents,
        "characters": places.characters,
        "threshold": chosen.threshold,
        "single": sorted(chosen.single),
        "most": chosen.most,
        "sources": described,
    }


class _Reading:
    def __init__(self, cleaning: Cleaning, sources: Sequence[Source], report: Report) -> None:
        self._cleaner = Cleaner(cleaning) if cleaning.asked else None
        self._report = Paced(report, "clean" if cleaning.asked else "read")
        self._total = sum(path.stat().st_size for source in sources for path in source.files())

    def staying(self, source: Source, removed: Removed, verdicts: bytearray) -> Iterator[str]:
        """The documents that stay; a byte of `verdicts` for every document."""
        for text in source.documents():
            self._report.more(len(text), self._total)
            fault = self._cleaner.fault(text) if self._cleaner else None
            verdicts.append(fault is None)
            if fault is None:
                yield text
            else:
                removed.add(fault, text)


def kept(directory: Path, number: int, source: Source) -> Texts:
    """Reads the documents of a source that stayed."""

    def texts() -> Iterator[str]:
        path = _verdicts(directory, number)
        return compress(source.documents(), path.read_bytes()) if path.exists() else source.documents()

    return texts


def scaffold(sources: Sequence[Source]) -> tuple[str, ...]:
    """Names of the files that only preparing needs."""
    return tuple(_verdicts(Path(), number).name for number in range(len(sources)))


def _verdicts(directory: Path, number: int) -> Path:
    return directory / f"{number:04d}-kept.u8"


def _nothing(sources: Sequence[Source], described: list[dict[str, Any]]) -> CorpusError:
    named = ", ".join(source.label for source in sources) or "no source"
    read = sum(about["documents"] for about in described)
    if not read:
        return CorpusError(f"there is no text in {named}", advice="give at least one document that is not blank")
    reasons = [reason for about in described for reason in about["removed"]]
    return CorpusError(
        f"cleaning removed all {read} documents of {named}: {'; '.join(sorted(set(reasons)))}",
        advice="ask for less cleaning",
    )
