"""Conversations as batches: packed into windows that keep them apart, with a loss on the assistant's part alone."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from trainer.chat import ChatError, ChatTemplate, PlainTemplate
from trainer.data import Batch
from trainer.dialogues.packing import neighbours, windows
from trainer.dialogues.rows import Bad, Conversation, OnBad, Skipped, conversations
from trainer.errors import CorpusError
from trainer.linear_cross_entropy import IGNORED
from trainer.tokenizer import end_of_text

Long = Literal["cut", "refuse"]
Order = Literal["shuffled", "given"]


@dataclass(frozen=True)
class Encoded:
    """A conversation's tokens, which of them the assistant said, and its prompt's draw for being held out."""

    tokens: NDArray[np.int32]
    said: NDArray[np.bool_]
    place: str
    draw: float


class Dialogues:
    """Conversations in memory, 5 bytes a token; `skipped` are the rows that were none."""

    def __init__(
        self, encoded: Sequence[Encoded], end: int, skipped: Skipped, long: Long = "cut", order: Order = "shuffled"
    ) -> None:
        """`end` fills what is left of a window; `long` is what happens to a conversation longer than one.

        With the order `given`, the first epoch reads conversations as they come; later ones are shuffled.
        """
        self.encoded, self.skipped, self._end, self._long, self._order = list(encoded), skipped, end, long, order
        self._kept: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._counts: dict[tuple[int, bool], int] = {}
        self._epochs: dict[tuple[int, int, int], list[list[int]]] = {}

    @classmethod
    def open(
        cls,
        paths: Path | Sequence[Path],
        tokenizer: Tokenizer,
        template: ChatTemplate | None = None,
        *,
        on_bad: OnBad = "refuse",
        long: Long = "cut",
        order: Order = "shuffled",
    ) -> "Dialogues":
        """The conversations of files, under `template` or the plain one.

        Raises:
            CorpusError: a file that cannot be read, a bad row, or no conversation at all.
        """
        template = template or PlainTemplate(tokenizer)
        skipped, kept = Skipped(), []
        given = [paths] if isinstance(paths, Path) else list(paths)
        for conversation in conversations(given, skipped, on_bad):
            found = encode(conversation, template)
            if isinstance(found, Bad):
                skipped.take(found, on_bad)
            else:
                kept.append(found)
        if not kept:
            named = ", ".join(map(str, given))
            raise CorpusError(f"{named}: no conversations; {skipped.count} bad rows skipped", advice="give some")
        return cls(kept, end_of_text(tokenizer), skipped, long, order)

    def split(self, share: float) -> "tuple[Dialogues, Dialogues]":
        """(what is trained on, the `share` that is held out), by a hash of the prompt alone: no prompt is in both.

        Raises:
            CorpusError: one of them has nothing, and was to have something.
        """
        sides: tuple[list[Encoded], list[Encoded]] = ([], [])
        for each in self.encoded:
            sides[each.draw < share].append(each)
        if not sides[0] or (share and not sides[1]):
            raise CorpusError(
                f"of {len(self)} conversations {len(sides[1])} are held out, as a share of {share:g}",
                advice="give more conversations with different prompts, or hold out another share",
            )
        first, second = (Dialogues(side, self._end, self.skipped, self._long, self._order) for side in sides)
        return first, second

    def __len__(self) -> int:
        return len(self.encoded)

    def cut(self, sequence: int) -> tuple[int, int]:
        """(conversations longer than a window, whose end is cut off; those of them that lose every answer and go)."""
        numbers, _ = self._usable(sequence)
        long = sum(len(each.tokens) - 1 > sequence for each in self.encoded)
        return long, len(self.encoded) - len(numbers)

    def windows(self, sequence: int) -> int:
        """Windows of the first epoch."""
        return self._count(sequence, 0)

    def visits(self, sequence: int, epochs: float) -> float:
        """Windows of so many epochs."""
        first, later = self._count(sequence, 0), self._count(sequence, 1)
        return first * min(1.0, epochs) + later * max(0.0, epochs - 1)

    def counted(self, sequence: int) -> int:
        """Tokens of an epoch that the loss is taken of."""
        numbers, _ = self._usable(sequence)
        return sum(int(self.encoded[number].said[1 : sequence + 1].sum()) for number in numbers)

    def batch(self, step: int, *, size: int, sequence: int, seed: int) -> Batch:
        """The batch of a step: `size` windows of `sequence` tokens. A pure function of its arguments.

        `documents` tells conversations apart; targets that the assistant did not say are `IGNORED`.

        Raises:
            CorpusError: a conversation is longer than a window, and those are refused; or nothing fits into one.
        """
        return self.read(range(step * size, (step + 1) * size), sequence=sequence, seed=seed)

    def read(self, visits: range, *, sequence: int, seed: int) -> Batch:
        """The windows of these visits, which batches count from 0; see `batch`."""
        first, later = self._count(sequence, 0), self._count(sequence, 1)
        at = [(0, visit) if visit < first else divmod(visit - first + later, later) for visit in visits]
        return self._batched([self._epoch(sequence, seed, epoch)[place] for epoch, place in at], visits, sequence)

    def in_order(self, *, size: int, sequence: int) -> Iterator[Batch]:
        """Every conversation once, in batches of at most `size` windows: for figures.

        Raises:
            CorpusError: as for `batch`.
        """
        return (batch for _, batch in self.numbered(size=size, sequence=sequence))

    def numbered(self, *, size: int, sequence: int) -> Iterator[tuple[list[list[int]], Batch]]:
        """`in_order`, and which of `encoded` each window's documents are.

        Raises:
            CorpusError: as for `batch`.
        """
        rows = self._epoch(sequence, 0, 0)
        for first in range(0, len(rows), size):
            chosen = rows[first : first + size]
            yield chosen, self._batched(chosen, range(first, first + len(chosen)), sequence)

    def _batched(self, rows: Sequence[Sequence[int]], visits: range, sequence: int) -> Batch:
        inputs = np.full((len(rows), sequence), self._end, dtype=np.int64)
        targets = np.full_like(inputs, IGNORED)
        documents = np.empty_like(inputs)
        for row, numbers in enumerate(rows):
            start = 0
            for document, number in enumerate(numbers):
                tokens, said = self.encoded[number].tokens[: sequence + 1], self.encoded[number].said[1 : sequence + 1]
                stop = start + len(said)
                inputs[row, start:stop] = tokens[:-1]
                targets[row, start:stop] = np.where(said, tokens[1:], IGNORED)
                documents[row, start:stop] = document
                start = stop
            documents[row, start:] = len(numbers)  # what is left: nobody sees it, and it counts for nothing
        read, asked, apart = (torch.from_numpy(each) for each in (inputs, targets, documents))
        return Batch(read, asked, apart, torch.tensor(visits, dtype=torch.int64))

    def _epoch(self, sequence: int, seed: int, epoch: int) -> list[list[int]]:
        """The windows of an epoch; two are kept, as a batch may lie across their border."""
        key = (sequence, seed, epoch)
        if key not in self._epochs:
            numbers, lengths = self._usable(sequence)
            if len(self._epochs) > 1:
                del self._epochs[next(iter(self._epochs))]
            given = self._order == "given" and epoch == 0
            packed = neighbours(lengths, sequence) if given else windows(lengths, sequence, seed, epoch)
            self._epochs[key] = [[int(numbers[place]) for place in window] for window in packed]
        return self._epochs[key]

    def _count(self, sequence: int, epoch: int) -> int:
        """Windows of an epoch: all that are packed alike have as many."""
        key = (sequence, self._order == "given" and epoch == 0)
        if key not in self._counts:
            self._counts[key] = len(self._epoch(sequence, 0, epoch))
        return self._counts[key]

    def _usable(self, sequence: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(numbers of the conversations with an answer within a window, the inputs that each takes of it)."""
        if sequence not in self._kept:
            long = [each for each in self.encoded if len(each.tokens) - 1 > sequence]
            if long and self._long == "refuse":
                raise CorpusError(
                    f"{long[0].place}: a conversation of {len(long[0].tokens)} tokens does not fit a window of "
                    f"{sequence}, and {len(long) - 1} more do not",
                    advice="make the sequence longer, or have their ends cut off: long=cut",
                )
            numbers = [n for n, each in enumerate(self.encoded) if each.said[1 : sequence + 1].any()]
            if not numbers:
                raise CorpusError(
                    f"no answer of {len(self.encoded)} conversations begins within {sequence} tokens",
                    advice="make the sequence longer",
                )
            lengths = [min(sequence, len(self.encoded[number].tokens) - 1) for number in numbers]
            self._kept[sequence] = np.array(numbers, dtype=np.int64), np.array(lengths, dtype=np.int64)
        return self._kept[sequence]


def encode(conversation: Conversation, template: ChatTemplate) -> Encoded | Bad:
    """A conversation's tokens; bad is one that the template cannot write, such as a forged role."""
    try:
        spoken = template.spoken(conversation.messages, tools=conversation.tools)
    except ChatError as wrong:
        return Bad(conversation.place, f"refused by the chat template: {wrong.message}")
    tokens, said = np.array(spoken.tokens, dtype=np.int32), np.array(spoken.said, dtype=np.bool_)
    answers = [taught for message, taught in zip(conversation.messages, conversation.taught, strict=False)
               if message.role == "assistant"]  # fmt: skip
    if not all(answers):
        # An answer is a run of what was said; the next begins after a role.
        begins = said & ~np.concatenate(([False], said[:-1]))
        if int(begins.sum()) != len(answers):
            return Bad(conversation.place, "weights: the chat template does not tell its answers apart")
        said &= np.array([False, *answers])[begins.cumsum()]
    return Encoded(tokens, said, conversation.place, conversation.draw)


def fingerprint(paths: Sequence[Path]) -> list[str]:
    """sha256 of every file's content.

    Raises:
        CorpusError: a file that is missing.
    """
    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as wrong:
            raise CorpusError(f"{path} cannot be read: {wrong}", advice="check the path") from wrong
    return found
