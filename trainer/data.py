"""A corpus: documents tokenised once into memory-mapped shards; batches are a pure function of seed and step."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from trainer.errors import CorpusError
from trainer.files import fresh_draft, fsync_directory, write_text
from trainer.sources import Source, all_documents
from trainer.tokenizer import end_of_text, load_tokenizer, require_fit, token_bytes, train_tokenizer

Split = Literal["train", "held_out"]
_LAYOUT = 1  # raise it when shards or their meaning change
_SHARD_TOKENS = 1 << 25
_HELD_OUT_SHARE = 0.05
_ENCODED_TOGETHER = 64
_FEWEST_TOKENS = 64

Report = Callable[[str, int, int], None]


def silent(message: str, done: int, total: int) -> None:
    """A Report that nobody reads."""


@dataclass(frozen=True)
class Batch:
    """Windows of the token stream. All [B, T] int64: what is read, what follows it, and each position's document."""

    inputs: Tensor
    targets: Tensor
    documents: Tensor


def corpus_key(sources: Sequence[Source], *, vocab_size: int, seed: int = 0, tokenizer: Path | None = None) -> str:
    """sha256 of everything that determines a prepared corpus: a good name for its directory."""
    parts: list[Any] = [_LAYOUT, _HELD_OUT_SHARE, vocab_size, seed, [source.fingerprint() for source in sources]]
    parts.append(hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer else None)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def prepare(
    sources: Sequence[Source],
    directory: Path,
    *,
    vocab_size: int,
    seed: int = 0,
    tokenizer: Path | None = None,
    report: Report = silent,
) -> "Corpus":
    """Tokenise `sources` into `directory`, or open what an earlier call left there.

    About 5 % of the documents, chosen by their hash, are held out. Nothing is at `directory` until all of it is.

    Raises:
        CorpusError: a source that is missing, empty, unreadable; or a directory that holds another corpus.
        TokenizerError: a tokenizer that cannot be read or does not fit `vocab_size`.
    """
    key = corpus_key(sources, vocab_size=vocab_size, seed=seed, tokenizer=tokenizer)
    if directory.exists():
        corpus = Corpus.open(directory)
        if corpus.meta["key"] != key:
            raise CorpusError(f"{directory} holds another corpus", advice="choose another directory")
        return corpus
    documents, characters, threshold = _survey(sources, seed)
    report("tokenizer", 0, characters)
    if tokenizer:
        trained = load_tokenizer(tokenizer)
    else:
        texts = (text for text in all_documents(sources) if _place(text, seed) > threshold)
        trained = train_tokenizer(texts, vocab_size)
    require_fit(trained, vocab_size)
    draft = fresh_draft(directory)
    try:
        meta = _tokenise(sources, draft, trained, vocab_size, seed, threshold, report, characters)
        meta |= {"layout": _LAYOUT, "key": key, "vocab_size": vocab_size, "seed": seed, "documents": documents}
        write_text(draft / "tokenizer.json", trained.to_str())
        write_text(draft / "meta.json", json.dumps(meta, indent=2))
        fsync_directory(draft)
        if not directory.exists():  # another process may have been faster with the same corpus
            draft.rename(directory)
        fsync_directory(directory.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Corpus.open(directory)


class Corpus:
    """A prepared corpus, memory-mapped."""

    def __init__(self, directory: Path, meta: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.directory = directory
        self.meta = meta
        self.tokenizer = tokenizer
        self.vocab_size: int = meta["vocab_size"]
        self.end_of_text = end_of_text(tokenizer)
        self.token_bytes = torch.from_numpy(token_bytes(tokenizer, self.vocab_size))
        self._shards = {split: _map(directory, meta, split) for split in ("train", "held_out")}

    @classmethod
    def open(cls, directory: Path) -> "Corpus":
        """Open what `prepare` left.

        Raises:
            CorpusError: not a corpus, of another layout, or with a shard missing or cut short.
        """
        try:
            meta = json.loads((directory / "meta.json").read_text())
        except (OSError, ValueError) as wrong:
            raise CorpusError(f"{directory} is not a prepared corpus: {wrong}", advice="prepare it again") from wrong
        if meta.get("layout") != _LAYOUT:
            raise CorpusError(f"{directory} was prepared by another version", advice="delete it and prepare it again")
        return cls(directory, meta, load_tokenizer(directory / "tokenizer.json"))

    def verify(self) -> None:
        """Read everything and compare hashes.

        Raises:
            CorpusError: a shard is not what was written.
        """
        for shard in self.meta["shards"]:
            with (self.directory / shard["file"]).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                raise CorpusError(f"{shard['file']} has changed on disk", advice="delete the corpus, prepare it again")

    def tokens(self, split: Split) -> int:
        """Tokens of a split."""
        return sum(len(shard) for shard in self._shards[split])

    def batch(self, step: int, *, size: int, sequence: int, seed: int) -> Batch:
        """The training batch of a step: `size` windows of `sequence` tokens.

        Every epoch cuts the stream at another offset and visits its windows in another order.
        """
        windows = self._windows("train", sequence) - 1  # the offset costs the last one
        if windows < 1:
            raise CorpusError(
                f"the training text has {self.tokens('train')} tokens, too few for windows of {sequence}",
                advice="give more text, or a shorter sequence",
            )
        picked = []
        for index in range(step * size, (step + 1) * size):
            epoch, place = divmod(index, windows)
            offset, order = _epoch(windows, sequence, seed, epoch)
            picked.append(offset + int(order[place]) * sequence)
        return self._read("train", picked, sequence)

    def held_out(self, *, size: int, sequence: int, windows: int) -> Iterator[Batch]:
        """Up to `windows` windows spread evenly over the held-out documents, always the same ones.

        Raises:
            CorpusError: the held-out text is shorter than one window.
        """
        there = self._windows("held_out", sequence)
        if there < 1:
            raise CorpusError(
                f"the held-out text has {self.tokens('held_out')} tokens, too few for a window of {sequence}",
                advice="give more text, or a shorter sequence",
            )
        count = min(windows, there)
        starts = [index * there // count * sequence for index in range(count)]
        for first in range(0, count, size):
            yield self._read("held_out", starts[first : first + size], sequence)

    def _windows(self, split: Split, sequence: int) -> int:
        return (self.tokens(split) - 1) // sequence

    def _read(self, split: Split, starts: list[int], sequence: int) -> Batch:
        rows = np.stack([_slice(self._shards[split], start, start + sequence + 1) for start in starts])
        tokens = torch.from_numpy(rows)
        inputs = tokens[:, :-1].contiguous()
        documents = (inputs == self.end_of_text).cumsum(dim=1)
        return Batch(inputs, tokens[:, 1:].contiguous(), documents)


@lru_cache(maxsize=4)
def _epoch(windows: int, sequence: int, seed: int, epoch: int) -> tuple[int, NDArray[np.int64]]:
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return int(generator.integers(sequence)), generator.permutation(windows)


def _place(text: str, seed: int) -> int:
    """A document's place in [0, 2^64): uniform, and always the same."""
    digest = hashlib.sha256(seed.to_bytes(8, "little", signed=True) + text.encode())
    return int.from_bytes(digest.digest()[:8], "little")


def _survey(sources: Sequence[Source], seed: int) -> tuple[int, int, int]:
    """(documents, characters, place up to which documents are held out): at least one is, at least one is not."""
    places: set[int] = set()
    documents = characters = 0
    for text in all_documents(sources):
        documents += 1
        characters += len(text)
        places.add(_place(text, seed))
    if not documents:
        named = ", ".join(source.label for source in sources) or "no source"
        raise CorpusError(f"there is no text in {named}", advice="give at least one document that is not blank")
    if len(places) < 2:
        raise CorpusError(
            f"the corpus has {characters} characters in one document, too few to hold any out",
            advice="give more text; a plain text file is cut into documents of 32 kB, JSONL and Parquet hold one a row",
        )
    ordered = sorted(places)
    wanted = int(_HELD_OUT_SHARE * 2**64)
    return documents, characters, min(max(wanted, ordered[0]), ordered[-2])


class _Writer:
    """Appends the tokens of one split, and closes a shard when it is full."""

    def __init__(self, directory: Path, split: Split, dtype: np.dtype[Any]) -> None:
        self._directory, self._split, self._dtype = directory, split, dtype
        self._open: list[NDArray[Any]] = []
        self._held = 0
        self.tokens = self.bytes = self.documents = 0
        self.shards: list[dict[str, Any]] = []

    def add(self, ids: list[int], text: str) -> None:
        self._open.append(np.asarray(ids, dtype=self._dtype))
        self._held += len(ids)
        self.tokens += len(ids)
        self.bytes += len(text.encode())
        self.documents += 1
        if self._held >= _SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        if not self._open:
            return
        data = np.concatenate(self._open).tobytes()
        digest = hashlib.sha256(data).hexdigest()
        name = f"{self._split}-{len(self.shards):05d}-{digest[:16]}.bin"
        with (self._directory / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.shards.append({"split": self._split, "file": name, "sha256": digest, "tokens": self._held})
        self._open, self._held = [], 0


def _tokenise(
    sources: Sequence[Source],
    draft: Path,
    tokenizer: Tokenizer,
    vocab_size: int,
    seed: int,
    threshold: int,
    report: Report,
    characters: int,
) -> dict[str, Any]:
    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    writers: dict[Split, _Writer] = {
        "train": _Writer(draft, "train", dtype),
        "held_out": _Writer(draft, "held_out", dtype),
    }
    end, done = end_of_text(tokenizer), 0
    for texts in _grouped(all_documents(sources), _ENCODED_TOGETHER):
        for text, encoding in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            split: Split = "held_out" if _place(text, seed) <= threshold else "train"
            writers[split].add([end, *encoding.ids], text)
            done += len(text)
        report("tokenise", done, characters)
    for split, writer in writers.items():
        writer.flush()
        if writer.tokens < _FEWEST_TOKENS:
            raise CorpusError(
                f"the {split.replace('_', '-')} text has only {writer.tokens} tokens", advice="give more text"
            )
    return {
        "dtype": dtype.name,
        "shards": [shard for writer in writers.values() for shard in writer.shards],
        "splits": {
            split: {"tokens": writer.tokens, "bytes": writer.bytes, "documents": writer.documents}
            for split, writer in writers.items()
        },
    }


def _grouped(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _map(directory: Path, meta: dict[str, Any], split: str) -> list[NDArray[Any]]:
    mapped: list[NDArray[Any]] = []
    for shard in meta["shards"]:
        if shard["split"] != split:
            continue
        path, dtype = directory / shard["file"], np.dtype(meta["dtype"])
        if not path.is_file() or path.stat().st_size != shard["tokens"] * dtype.itemsize:
            raise CorpusError(f"{path} is missing or cut short", advice="delete the corpus and prepare it again")
        mapped.append(np.memmap(path, dtype=dtype, mode="r"))
    return mapped


def _slice(shards: list[NDArray[Any]], start: int, stop: int) -> NDArray[np.int64]:
    """Tokens [start, stop) of the shards laid end to end."""
    parts, before = [], 0
    for shard in shards:
        part = shard[max(0, start - before) : max(0, stop - before)]
        if len(part):
            parts.append(part)
        before += len(shard)
    return np.concatenate(parts).astype(np.int64)
