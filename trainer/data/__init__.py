"""Corpora: documents tokenised once into memory-mapped shards; batches are a pure function of seed and step."""

from trainer.data.corpus import Batch, Corpus, Split
from trainer.data.preparation import corpus_key, prepare, silent
from trainer.data.survey import Report

__all__ = ["Batch", "Corpus", "Report", "Split", "corpus_key", "prepare", "silent"]
