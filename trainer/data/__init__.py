"""Corpora: documents tokenised once into memory-mapped shards; batches are a pure function of seed and step."""

from trainer.data.corpus import Batch, Corpus, Split
from trainer.data.prepare import Report, corpus_key, prepare, silent

__all__ = ["Batch", "Corpus", "Report", "Split", "corpus_key", "prepare", "silent"]
