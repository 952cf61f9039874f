"""All evaluations of a model at some lengths."""

import time
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from trainer import memory
from trainer.evaluate.haystack import Text
from trainer.evaluate.positions import Bucket, bits_by_position
from trainer.evaluate.retrieval import Kind, episodes, task
from trainer.evaluate.scores import Recall, recall
from trainer.model import HybridLM

KINDS: tuple[Kind, ...] = ("needle", "multi_needle", "key_value")
_TOGETHER = 4096  # positions read at once where windows are short


class Report(BaseModel):
    """What was found at one length."""

    model_config = ConfigDict(frozen=True)

    length: int
    bits_per_byte: float
    by_position: tuple[Bucket, ...]
    needle: Recall
    multi_needle: Recall
    key_value: Recall
    memory_bytes: int
    seconds: float


def evaluate(
    model: HybridLM, text: Text, lengths: Sequence[int], *, count: int = 32, windows: int = 8, seed: int = 0
) -> Iterator[Report]:
    """A report for every length, as they come: `count` episodes of each task, `windows` windows of text.

    Raises:
        NotEnoughMemory: before anything is read.
        CorpusError: a length too short for the tasks.
    """
    for length in lengths:
        memory.require(_bytes(model, length), f"evaluating {length} tokens")
        for kind in KINDS:
            task(kind, length)
    for length in lengths:
        yield _at(model, text, length, count, windows, seed)


def _at(model: HybridLM, text: Text, length: int, count: int, windows: int, seed: int) -> Report:
    begun, batch = time.monotonic(), _batch(length)
    found = {
        kind: recall(model, episodes(text, task(kind, length), count=count, length=length, seed=seed), batch=batch)
        for kind in KINDS
    }
    bits, buckets = bits_by_position(model, text, length=length, windows=windows, batch=batch)
    return Report(
        length=length,
        bits_per_byte=bits,
        by_position=buckets,
        needle=found["needle"],
        multi_needle=found["multi_needle"],
        key_value=found["key_value"],
        memory_bytes=_bytes(model, length),
        seconds=time.monotonic() - begun,
    )


def _batch(length: int) -> int:
    return max(1, _TOGETHER // length)


def _bytes(model: HybridLM, length: int) -> int:
    return memory.of_evaluation(model.architecture, batch=_batch(length), sequence=length)
