"""What is removed from a corpus before it is tokenised: a declared choice, kept with the corpus."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.sources import Source

Language = Literal["de", "en", "es", "fr", "it", "nl", "pl", "pt", "sv"]


class Cleaning(BaseModel):
    """Filters of whole documents, in the order in which they are asked. By default nothing is removed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: Language | None = Field(default=None, description="Only documents in it, told by its function words")
    quality: bool = Field(default=False, description="Heuristics of Gopher, C4 and FineWeb for prose")
    evaluations: tuple[Source, ...] = Field(
        default=(), description="Text that models are judged by: documents that share an n-gram with it are removed"
    )
    ngram: int = Field(default=13, ge=5, le=50, description="Words in such an n-gram; 13 as for GPT-3")
    exact_duplicates: bool = Field(default=False, description="Later copies, up to case, punctuation and white space")
    near_duplicates: float | None = Field(
        default=None, ge=0.7, le=1, description="Later documents of at least this Jaccard similarity (5-word shingles)"
    )

    @property
    def asked(self) -> bool:
        """Whether anything may be removed."""
        return bool(self.language or self.quality or self.evaluations or self.exact_duplicates or self.near_duplicates)

    @classmethod
    def prose(cls, language: Language = "en", evaluations: tuple[Source, ...] = ()) -> "Cleaning":
        """A sensible choice for prose from the web or from books."""
        return cls(language=language, quality=True, evaluations=evaluations, exact_duplicates=True, near_duplicates=0.8)
