"""How hard conversations are to an ensemble of checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.chat import ChatError, Message, template_of
from trainer.checkpoint import Checkpoint
from trainer.dialogues import Bad, Conversation, Dialogues, Encoded, Skipped
from trainer.dialogues.dialogues import encode
from trainer.errors import CorpusError
from trainer.evaluate.reading import losses
from trainer.generation import Engine, SamplingParams
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.preference.judges import Case, verifiable
from trainer.rewards.numbers import is_number
from trainer.tokenizer import end_of_text

_AT_ONCE = 16
_SLOTS, _CACHE_BYTES = 64, 64 << 20


@dataclass(frozen=True)
class Difficulty:
    """`nats` a token of the answers, in the mean over checkpoints; `success` of them, as a share.

    With `samples`, how many answers were sampled from all of them, success is the share that is right; or else the
    share of checkpoints whose likeliest tokens are the answers throughout.
    """

    nats: float
    success: float
    samples: int = 0


@dataclass(frozen=True)
class Sampling:
    """How a checkpoint answers: `samples` times each prompt, with at most `max_tokens`."""

    samples: int
    temperature: float = 1.0
    max_tokens: int = 64


def difficulties(
    rows: Sequence[Conversation],
    checkpoints: Sequence[Checkpoint],
    sequence: int,
    report: Callable[[int, int], None],
    sampling: Sampling | None = None,
) -> list[Difficulty | None]:
    """Of every row, each under a checkpoint's own tokenizer and template; None where one of them cannot read it.

    Only what lies within `sequence` tokens is judged. Answers are sampled where they can be verified (`expected`) and
    every checkpoint has room for them.
    """
    nats, success = np.zeros(len(rows)), np.zeros(len(rows))
    solved = np.zeros(len(rows))
    passes = 2 if sampling else 1
    total = passes * len(rows) * len(checkpoints)
    for number, checkpoint in enumerate(checkpoints):
        told = partial(_told, report, passes * number * len(rows), total)
        model = checkpoint.model()
        lost, right = _judged(rows, checkpoint, model, sequence, told)
        nats += lost / len(checkpoints)
        success += right / len(checkpoints)
        if sampling:
            told = partial(_told, report, (2 * number + 1) * len(rows), total)
            solved += _solved(rows, checkpoint, model, sequence, sampling, told) / len(checkpoints)
    asked = sampling.samples * len(checkpoints) if sampling else 0
    by_samples = (solved == solved) & (asked > 0)
    rate = np.where(by_samples, solved, success).tolist()
    figures = zip(nats.tolist(), rate, (by_samples * asked).tolist(), strict=True)
    return [None if lost != lost else Difficulty(lost, right, count) for lost, right, count in figures]


def expected(row: Conversation) -> str | None:
    """What a row's last answer is verified by: its `answer`, or that answer itself where it is a number alone."""
    given = row.row.get("answer")
    if isinstance(given, str) and given.strip():
        return given
    said = row.messages[-1].content
    return said if row.messages[-1].role == "assistant" and is_number(said) else None


def _solved(
    rows: Sequence[Conversation],
    checkpoint: Checkpoint,
    model: HybridLM,
    context: int,
    sampling: Sampling,
    report: Callable[[int], None],
) -> NDArray[np.float64]:
    """The share of a checkpoint's answers that are right, by row; NaN where none can be verified, or has no room.

    An answer that meets its limit is judged as it is. The i-th row's samples do not depend on the others.
    """
    tokenizer = checkpoint.tokenizer
    template = template_of(checkpoint.directory, tokenizer)
    asked: dict[int, tuple[Case, list[int]]] = {}
    for number, row in enumerate(rows):
        case = Case(_before_the_last_answer(row), expected(row))
        if case.expected is None or not case.messages:
            continue
        try:
            prompt = template.encode(case.messages, tools=row.tools)
        except ChatError:
            continue
        if len(prompt) + sampling.max_tokens <= context:
            asked[number] = case, prompt
    shares = np.full(len(rows), np.nan)
    engine = Engine(model, tokenizer=tokenizer, context=context, slots=_SLOTS, cache_bytes=_CACHE_BYTES)
    how = SamplingParams(max_tokens=sampling.max_tokens, temperature=sampling.temperature, stop_tokens=template.ends)
    groups = {
        number: engine.submit_group(prompt, how.model_copy(update={"seed": number}), sampling.samples)
        for number, (_, prompt) in asked.items()
    }
    engine.run(lambda done, all_: report(done * len(rows) // all_))
    for number, group in groups.items():
        case, _ = asked[number]
        right = [verifiable(case, each.result().text) or 0.0 for each in group]  # other words may say the same
        shares[number] = sum(right) / len(right)
    report(len(rows))
    return shares


def _before_the_last_answer(row: Conversation) -> tuple[Message, ...]:
    last = max(number for number, message in enumerate(row.messages) if message.role == "assistant")
    return row.messages[:last]


def _told(report: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    report(before + done, total)


@torch.no_grad()
def _judged(
    rows: Sequence[Conversation],
    checkpoint: Checkpoint,
    model: HybridLM,
    sequence: int,
    report: Callable[[int], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(nats a token, whether every token was the likeliest) by row; NaN of what cannot be read."""
    tokenizer = checkpoint.tokenizer
    template = template_of(checkpoint.directory, tokenizer)
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
