"""A cleaning at work: asks each filter in turn, counts what goes, and keeps examples."""

from dataclasses import dataclass, field
from typing import Any

from trainer.cleaners.contamination import Contamination
from trainer.cleaners.duplicates import ExactDuplicates, NearDuplicates
from trainer.cleaners.language import language
from trainer.cleaners.quality import fault
from trainer.cleaners.words import Words
from trainer.cleaning import Cleaning

_EXAMPLES = 3
_SHOWN = 300


class Cleaner:
    """Judges documents in order: of duplicates, the first stays."""

    def __init__(self, cleaning: Cleaning) -> None:
        self._cleaning = cleaning
        self._evaluations = Contamination(
            (text for source in cleaning.evaluations for text in source.documents()), cleaning.ngram
        )
        self._exact = ExactDuplicates()
        self._near = NearDuplicates(cleaning.near_duplicates or 1.0)

    def fault(self, text: str) -> str | None:
        """Why the document goes, or None."""
        asked, words = self._cleaning, Words(text)
        if asked.language is not None:
            found = language(words)
            if found not in (None, asked.language):
                return f"language: {found}"
        if asked.quality:
            broken = fault(words)
            if broken is not None:
                return f"quality: {broken}"
        if words in self._evaluations:
            return "contamination: shares words with an evaluation"
        if asked.exact_duplicates and self._exact.seen(words):
            return "duplicate: the same words"
        if asked.near_duplicates is not None and self._near.seen(words):
            return "duplicate: nearly the same words"
        return None


@dataclass
class Removed:
    """What went from one source, by reason."""

    reasons: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, reason: str, text: str) -> None:
        """Count a document; the first few are kept as examples."""
        about = self.reasons.setdefault(reason, {"documents": 0, "characters": 0, "examples": []})
        about["documents"] += 1
        about["characters"] += len(text)
        if len(about["examples"]) < _EXAMPLES:
            about["examples"].append(text[:_SHOWN])
