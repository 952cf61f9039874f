"""A prepared corpus, memory-mapped: training batches, held-out windows, and what is known of each source."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from trainer.data import order, shards
from trainer.data.stream import Stream
from trainer.errors import CorpusError
from trainer.linear_cross_entropy import IGNORED
from trainer.tokenizer import end_of_text, load_tokenizer, token_bytes

Split = Literal["train", "held_out"]
LAYOUT = 2  # raise it when shards or their meaning change


@dataclass(frozen=True)
class Batch:
    """Windows of text. `inputs` (what is read), `targets` (what follows it) and `documents` (each position's document,
    counted from the window's first) are [B, T] int64; `indices` [B] int64 number the windows in the order of visits.
    A loss is given no `documents` where every window lies within one: plain causal attention then does.
    """

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None
    indices: Tensor

    @property
    def counted(self) -> float:
        """What a mean loss of it is the mean of: targets that are not `IGNORED`."""
        return int((self.targets != IGNORED).sum())


class Corpus:
    """A prepared corpus, memory-mapped."""

    def __init__(self, directory: Path, meta: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.directory = directory
        self.meta = meta
        self.tokenizer = tokenizer
        self.vocab_size: int = meta["vocab_size"]
        self.end_of_text = end_of_text(tokenizer)
        self.token_bytes = torch.from_numpy(token_bytes(tokenizer, self.vocab_size))
        self.sources: tuple[str, ...] = tuple(source["name"] for source in meta["sources"])
        self._parts = {(number, split): self._part(number, split) for number in range(len(self.sources)) for split in
                       ("train", "held_out")}  # fmt: skip

    @classmethod
    def open(cls, directory: Path) -> "Corpus":
        """Open what `prepare` left; sizes are compared here, hashes by `verify`.

        Raises:
            CorpusError: not a corpus, of another layout, or with a shard missing or cut short.
        """
        try:
            meta = json.loads((directory / "meta.json").read_text())
        except (OSError, ValueError) as wrong:
            raise CorpusError(f"{directory} is not a prepared corpus: {wrong}", advice="prepare it again") from wrong
        if meta.get("layout") != LAYOUT:
            raise CorpusError(f"{directory} was prepared by another version", advice="delete it and prepare it again")
        return cls(directory, meta, load_tokenizer(directory / "tokenizer.json"))

    def verify(self) -> None:
        """Read everything and compare hashes: about a second per gigabyte, once before a training run.

        Raises:
            CorpusError: a shard is not what was written.
        """
        for shard in self.meta["shards"]:
            shards.verify(self.directory, shard)

    def tokens(self, split: Split, source: str | None = None) -> int:
        """Tokens of a split, or of one source's part of it."""
        return len(self._stream(split, source).tokens)

    @property
    def shares(self) -> dict[str, float]:
        """Each source's share of the training tokens."""
        found = {}
        for share, members in zip(self._shares, self._members, strict=True):
            sizes = [len(self._parts[member, "train"].tokens) for member in members]
            for member, size in zip(members, sizes, strict=True):
                found[self.sources[member]] = share * size / sum(sizes)
        return {name: found.get(name, 0.0) for name in self.sources}

    def batch(self, step: int, *, size: int, sequence: int, seed: int, long_share: float = 0.0) -> Batch:
        """The training batch of a step: `size` windows of `sequence` tokens, of which `long_share` lie within one
        document of at least `sequence` tokens.

        Every epoch of a source cuts its text at another offset and visits its windows in another order. A pure
        function of its arguments; when the sequence grows during a run, each length has an order of its own.

        Raises:
            CorpusError: a source has too little text for a window, or no document is long enough.
        """
        return self.read(range(step * size, (step + 1) * size), sequence=sequence, seed=seed, long_share=long_share)

    def read(self, visits: range, *, sequence: int, seed: int, long_share: float = 0.0) -> Batch:
        """The windows of these visits, which batches count from 0; see `batch`."""
        parts = self._components(sequence, long_share)
        rows = [self._window(*order.deal(parts, visit, seed), sequence, seed) for visit in visits]
        return self._batched(rows, visits)

    def epochs(self, visits: int, *, sequence: int, seed: int, long_share: float = 0.0) -> dict[str, float]:
        """How often each source's training tokens were read in the first `visits` windows (steps times size)."""
        parts = self._components(sequence, long_share)
        read = dict.fromkeys(self.sources, 0.0)
        for part, count in zip(parts, order.visits_of(parts, visits, seed), strict=True):
            for member in self._members[part.stream]:
                read[self.sources[member]] += count * sequence / len(self._trained[part.stream].tokens)
        return read

    def held_out(self, *, size: int, sequence: int, windows: int, source: str | None = None) -> Iterator[Batch]:
        """Up to `windows` windows spread evenly over the held-out documents (of one source), always the same ones.

        Raises:
            CorpusError: the held-out text is shorter than one window, or there is no such source.
        """
        stream = self._stream("held_out", source)
        there = stream.windows(sequence)
        if there < 1:
            of = f" of {source}" if source else ""
            raise CorpusError(
                f"the held-out text{of} has {len(stream.tokens)} tokens, too few for a window of {sequence}",
                advice="give more text, or a shorter sequence",
            )
        count = min(windows, there)
        starts = [index * there // count * sequence for index in range(count)]
        for first in range(0, count, size):
            rows = [stream.tokens.read(start, start + sequence + 1) for start in starts[first : first + size]]
            yield self._batched(rows, range(first, first + len(rows)))

    def sources_held_out(self, sequence: int) -> tuple[str, ...]:
        """The sources with held-out text for a window at least: a small one has too few documents to share."""
        there = (name for name in self.sources if self._stream("held_out", name).windows(sequence))
        return tuple(there)

    def lengths(self, split: Split, source: str | None = None) -> NDArray[np.uint32]:
        """Tokens of each document, its end of text counted, in the order of the stream."""
        return self._stream(split, source).lengths

    def _part(self, number: int, split: Split) -> Stream:
        mine = [s for s in self.meta["shards"] if s["source"] == number and s["split"] == split]
        mapped = {
            kind: [shards.opened(self.directory, shard, shard["dtype"]) for shard in mine if shard["kind"] == kind]
            for kind in ("tokens", "lengths")
        }
        return Stream.of(mapped["tokens"], mapped["lengths"])

    def _stream(self, split: Split, source: str | None) -> Stream:
        if source is None:
            return self._whole[split]
        if source not in self.sources:
            raise CorpusError(f"the corpus has no source {source!r}", advice=f"say one of {', '.join(self.sources)}")
        return self._parts[self.sources.index(source), split]

    @cached_property
    def _whole(self) -> dict[Split, Stream]:
        numbers = range(len(self.sources))
        splits: tuple[Split, ...] = ("train", "held_out")
        return {split: Stream.joined([self._parts[number, split] for number in numbers]) for split in splits}

    @cached_property
    def _members(self) -> list[list[int]]:
        """Sources of each stream: those without a weight lie end to end in one, and so have shares by their size."""
        there = [n for n in range(len(self.sources)) if len(self._parts[n, "train"].tokens)]
        weights = [source["weight"] for source in self.meta["sources"]]
        pool = [number for number in there if weights[number] is None]
        return ([pool] if pool else []) + [[number] for number in there if weights[number] is not None]

    @cached_property
    def _shares(self) -> list[float]:
        weights = [self.meta["sources"][members[0]]["weight"] for members in self._members]
        given = sum(weight for weight in weights if weight is not None)
        whole = 1.0 if None in weights else given
        return [(1.0 - given if weight is None else weight) / whole for weight in weights]

    @cached_property
    def _trained(self) -> list[Stream]:
        return [Stream.joined([self._parts[member, "train"] for member in members]) for members in self._members]

    def _components(self, sequence: int, long_share: float) -> tuple[order.Component, ...]:
        for members, stream in zip(self._members, self._trained, strict=True):
            if stream.windows(sequence) < 2:  # an epoch's offset costs one
                named = ", ".join(self.sources[member] for member in members)
                raise CorpusError(
                    f"the training text of {named} has {len(stream.tokens)} tokens, too few for windows of {sequence}",
                    advice="give more text, or a shorter sequence",
                )
        has_long = [long_share > 0 and stream.long_windows(sequence) > 0 for stream in self._trained]
        if long_share > 0 and not any(has_long):
            longest = max(int(stream.lengths.max()) for stream in self._trained)
            raise CorpusError(
                f"no training document has {sequence} tokens, the longest has {longest}",
                advice="add a source of longer documents, or leave the share of long windows at 0",
            )
        return order.components(self._shares, long_share, has_long)

    def _window(self, part: order.Component, visit: int, sequence: int, seed: int) -> NDArray[np.int64]:
        stream = self._trained[part.stream]
        windows = stream.long_windows(sequence) if part.long else stream.windows(sequence) - 1
        number, place = divmod(visit, windows)
        offset, visited = order.epoch(windows, seed, part.key, number)
        window = int(visited[place])
        start = stream.long_start(window, sequence, offset) if part.long else int(offset * sequence) + window * sequence
        return stream.tokens.read(start, start + sequence + 1)

    def _batched(self, rows: Sequence[NDArray[np.int64]], visits: range) -> Batch:
        tokens = torch.from_numpy(np.stack(rows))
        inputs = tokens[:, :-1].contiguous()
        documents = (inputs == self.end_of_text).cumsum(dim=1)
        return Batch(inputs, tokens[:, 1:].contiguous(), documents, torch.tensor(visits, dtype=torch.int64))
