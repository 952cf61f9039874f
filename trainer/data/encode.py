"""Documents to token ids, in batches that all cores encode, however long a document is."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

_TOGETHER = 64
_CHARACTERS = 1 << 20  # encoded in one piece: the library needs some hundred bytes for each token meanwhile
# Byte-level pre-tokenizers never join what stands on the two sides of a single space's beginning.
_SEAM = re.compile(r"(?<=\w)(?= \w)")


def encoded(tokenizer: Tokenizer, documents: Iterator[str], end: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each document with its ids, `end` in front."""
    for texts in _grouped(documents):
        pieces = [list(_pieces(text)) for text in texts]
        found = _ids(tokenizer, [piece for parts in pieces for piece in parts])
        for text, parts in zip(texts, pieces, strict=True):
            yield text, np.concatenate([[end], *(next(found) for _ in parts)]).astype(np.int64)


def _ids(tokenizer: Tokenizer, pieces: list[str]) -> Iterator[NDArray[np.uint32]]:
    """Ids of each piece; what the library needs for its pieces is released before the next ones."""
    together = _TOGETHER if sum(map(len, pieces)) <= 2 * _CHARACTERS else 2
    for start in range(0, len(pieces), together):
        for encoding in tokenizer.encode_batch_fast(pieces[start : start + together], add_special_tokens=False):
            yield np.asarray(encoding.ids, dtype=np.uint32)


def _grouped(texts: Iterator[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if len(group) == _TOGETHER or size >= _CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _CHARACTERS:
        seam = _SEAM.search(text, start + _CHARACTERS // 2, start + _CHARACTERS)
        stop = seam.start() if seam else start + _CHARACTERS
        yield text[start:stop]
        start = stop
    yield text[start:]
