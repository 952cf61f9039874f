"""How hard conversations are to an ensemble of checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.chat import template_of
from trainer.checkpoint import Checkpoint
from trainer.dialogues import Bad, Conversation, Dialogues, Encoded, Skipped
from trainer.dialogues.dialogues import encode
from trainer.errors import CorpusError
from trainer.evaluate.reading import losses
from trainer.linear_cross_entropy import IGNORED
from trainer.tokenizer import end_of_text

_AT_ONCE = 16


@dataclass(frozen=True)
class Difficulty:
    """`nats` a token of the answers, in the mean over checkpoints; `success` is the share of them whose likeliest
    tokens are the answers throughout."""

    nats: float
    success: float


def difficulties(
    rows: Sequence[Conversation],
    checkpoints: Sequence[Checkpoint],
    sequence: int,
    report: Callable[[int, int], None],
) -> list[Difficulty | None]:
    """Of every row, each under a checkpoint's own tokenizer and template; None where one of them cannot read it.

    Only what lies within `sequence` tokens is judged.
    """
    nats, success = np.zeros(len(rows)), np.zeros(len(rows))
    total = len(rows) * len(checkpoints)
    for number, checkpoint in enumerate(checkpoints):
        lost, right = _judged(rows, checkpoint, sequence, partial(_told, report, number * len(rows), total))
        nats += lost / len(checkpoints)
        success += right / len(checkpoints)
    pairs = zip(nats.tolist(), success.tolist(), strict=True)
    return [None if lost != lost else Difficulty(lost, right) for lost, right in pairs]


def _told(report: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    report(before + done, total)


@torch.no_grad()
def _judged(
    rows: Sequence[Conversation], checkpoint: Checkpoint, sequence: int, report: Callable[[int], None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(nats a token, whether every token was the likeliest) by row; NaN of what cannot be read."""
    tokenizer = checkpoint.tokenizer
    template, model = template_of(checkpoint.directory, tokenizer), checkpoint.model()
    found = [encode(row, template) for row in rows]
    readable = [number for number, each in enumerate(found) if not isinstance(each, Bad)]
    encoded = [each for each in found if isinstance(each, Encoded)]
    nats, right = np.full(len(rows), np.nan), np.zeros(len(rows))
    chats, done = Dialogues(encoded, end_of_text(tokenizer), Skipped()), 0
    try:
        batches = list(chats.numbered(size=_AT_ONCE, sequence=sequence))
    except CorpusError:
        return nats, right
    for numbers, batch in batches:
        lost, hit = losses(model, batch.inputs, batch.targets, batch.documents)
        for row, window in enumerate(numbers):
            for document, number in enumerate(window):
                mine = (batch.documents[row] == document) & (batch.targets[row] != IGNORED)  # type: ignore[index]
                nats[readable[number]] = float(lost[row][mine].mean())
                right[readable[number]] = float(hit[row][mine].all())
            done += len(window)
        report(done)
    return nats, right
