"""From a registered corpus to the tokenised shards that training reads."""

from collections.abc import Callable

from server.services import Services
from trainer.data import Corpus, corpus_key, prepare


def prepared(services: Services, corpus_id: str, vocab_size: int, progress: Callable[[str, int, int], None]) -> Corpus:
    """Tokenise once; the directory's name says all that determines it, so a later search finds it.

    Raises:
        TrainerError: the text cannot be read, or is too little.
    """
    sources = services.corpora.sources(corpus_id)
    directory = services.settings.home / "corpora" / corpus_key(sources, vocab_size=vocab_size)
    directory.parent.mkdir(parents=True, exist_ok=True)
    return prepare(
        sources,
        directory,
        vocab_size=vocab_size,
        report=lambda message, done, total: progress(f"preparing the corpus: {message}", done, total),
    )
