"""From a registered corpus to the tokenised shards that training reads."""

from collections.abc import Callable

from search.spec import SearchSpec
from server.services import Services
from trainer.data import Corpus, corpus_key, prepare


def prepared(services: Services, spec: SearchSpec, progress: Callable[[str, int, int], None]) -> Corpus:
    """Tokenise once; the directory's name says all that determines it, so a later search finds it.

    Raises:
        TrainerError: the text cannot be read, or is too little.
    """
    sources = services.corpora.sources(spec.corpus)
    tokenizer = services.corpora.tokenizer(spec.tokenizer, spec.vocab_size)
    key = corpus_key(sources, vocab_size=spec.vocab_size, tokenizer=tokenizer)
    directory = services.settings.home / "corpora" / key
    directory.parent.mkdir(parents=True, exist_ok=True)
    return prepare(
        sources,
        directory,
        vocab_size=spec.vocab_size,
        tokenizer=tokenizer,
        report=lambda message, done, total: progress(f"preparing the corpus: {message}", done, total),
    )
