"""What a corpus holds, as plain values: for people, and for programs that read JSON."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.corpus import Corpus

_BOUNDARY = "\n\u2500\u2500\u2500\u2500 next document \u2500\u2500\u2500\u2500\n"


def inspected(corpus: Corpus, *, samples: int = 3, sequence: int = 128) -> dict[str, Any]:
    """Sources, lengths, what cleaning removed, and `samples` windows of training text."""
    shares, total = corpus.shares, corpus.tokens("train")
    sources = []
    for about in corpus.meta["sources"]:
        train, held_out = about["splits"]["train"], about["splits"]["held_out"]
        tokens = train["tokens"] + held_out["tokens"]
        sources.append(
            {
                "name": about["name"],
                "format": about["format"],
                "documents": train["documents"] + held_out["documents"],
                "tokens": train["tokens"],
                "held_out_tokens": held_out["tokens"],
                "bytes": train["bytes"] + held_out["bytes"],
                "bytes_per_token": (train["bytes"] + held_out["bytes"]) / tokens if tokens else 0.0,
                "weight": about["weight"],
                "share": shares[about["name"]],
                "epochs": shares[about["name"]] * total / train["tokens"] if train["tokens"] else 0.0,
                "lengths": lengths(corpus.lengths("train", about["name"])),
                "removed": about["removed"],
            }
        )
    return {
        "directory": str(corpus.directory),
        "key": corpus.meta["key"],
        "vocab_size": corpus.vocab_size,
        "tokens": total,
        "held_out_tokens": corpus.tokens("held_out"),
        "shards": len(corpus.meta["shards"]),
        "cleaning": corpus.meta["cleaning"],
        "sources": sources,
        "samples": windows(corpus, samples, sequence),
    }


def lengths(tokens: NDArray[np.uint32]) -> dict[str, int]:
    """Documents by their tokens, each bin twice as wide as the one before: {"64-127": 12, ...}."""
    bins = np.floor(np.log2(np.maximum(tokens, 1))).astype(int)
    return {f"{1 << int(at)}-{(2 << int(at)) - 1}": int((bins == at).sum()) for at in np.unique(bins)}


def windows(corpus: Corpus, count: int, sequence: int) -> list[str]:
    """The first training windows of seed 0, as text in which the boundaries of documents are seen."""
    if not count:
        return []
    found = []
    for row in corpus.batch(0, size=count, sequence=sequence, seed=0).inputs.tolist():
        parts: list[list[int]] = [[]]
        for token in row:
            if token == corpus.end_of_text:
                parts.append([])
            else:
                parts[-1].append(token)
        found.append(_BOUNDARY.join(corpus.tokenizer.decode(part) for part in parts))
    return found
