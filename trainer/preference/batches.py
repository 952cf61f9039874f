"""Pairs as training batches: each row holds both answers of one pair, each after the prompt, as two documents."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.chat import ChatError, ChatTemplate, Message
from trainer.data import Batch, Corpus
from trainer.files import fsync_directory, fsync_file
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.preference.logprobs import answer_nats
from trainer.preference.losses import Answers
from trainer.preference.rows import Pair, PreferenceError
from trainer.step import device_of, moved

_CHOSEN, _REJECTED, _PADDING = range(3)  # documents of a row
_MULTIPLE = 16  # of a row's tokens
_ROWS = 8  # of which reference figures are taken at once


@dataclass(frozen=True)
class PairBatch(Batch):
    """A batch whose rows are pairs; `indices` number them, `reference` [B, 2] are both answers' log-probabilities."""

    reference: Tensor


@dataclass(frozen=True)
class Row:
    """Tokens of a pair: read, predicted, and of which document."""

    inputs: Tensor
    targets: Tensor
    documents: Tensor


class PairCorpus(Corpus):
    """A corpus to the training loop whose batches are of pairs; its held-out text is the corpus's own."""

    def __init__(self, corpus: Corpus, rows: Sequence[Row], reference: Tensor) -> None:
        super().__init__(corpus.directory, corpus.meta, corpus.tokenizer)
        self._rows, self._reference = rows, reference

    def batch(self, step: int, *, size: int, sequence: int, seed: int, long_share: float = 0.0) -> PairBatch:  # noqa: ARG002  # a pair is as long as it is
        """`size` pairs: every epoch visits all of them, in another order."""
        visits = (divmod(visit, len(self._rows)) for visit in range(step * size, (step + 1) * size))
        numbers = [int(self._order(epoch, seed)[place]) for epoch, place in visits]
        return batched(self._rows, numbers, self._reference)

    def _order(self, epoch: int, seed: int) -> Tensor:
        digest = hashlib.sha256(f"{seed}/pairs/{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randperm(len(self._rows), generator=generator)


def encode(pairs: Sequence[Pair], template: ChatTemplate, sequence: int) -> list[Row]:
    """The rows of those pairs that fit into `sequence` tokens and that the template takes.

    Raises:
        PreferenceError: none of them does.
    """
    rows, why = [], ""
    for pair in pairs:
        try:
            row = _row(pair, template)
        except ChatError as refused:
            why = refused.message  # one answer that forges a special token must not end a training
            continue
        if len(row.inputs) <= sequence:
            rows.append(row)
        else:
            why = f"this one has {len(row.inputs)}"
    if not rows:
        raise PreferenceError(
            f"none of {len(pairs)} pairs fits into {sequence} tokens and the chat template; the last: {why}",
            advice="raise `sequence`, lower `max_tokens`, or correct the pairs",
        )
    return rows


def batched(rows: Sequence[Row], numbers: Sequence[int], reference: Tensor) -> PairBatch:
    """The rows of these numbers, padded to the longest."""
    longest = max(len(rows[number].inputs) for number in numbers)
    width = -(-longest // _MULTIPLE) * _MULTIPLE

    def padded(name: str, filler: int) -> Tensor:
        out = torch.full((len(numbers), width), filler, dtype=torch.int64)
        for place, number in enumerate(numbers):
            values = getattr(rows[number], name)
            out[place, : len(values)] = values
        return out

    parts = (padded("inputs", 0), padded("targets", IGNORED), padded("documents", _PADDING))
    return PairBatch(*parts, torch.tensor(numbers, dtype=torch.int64), reference[list(numbers)])


def sides(model: HybridLM, batch: PairBatch) -> tuple[Answers, Answers]:
    """What the model and its reference give the chosen and the rejected answers."""
    assert batch.documents is not None
    nats = answer_nats(model, batch.inputs, batch.targets, batch.documents)
    asked = batch.targets != IGNORED
    found = []
    for side in (_CHOSEN, _REJECTED):
        here = batch.documents == side
        found.append(Answers(-(nats * here).sum(1), batch.reference[:, side], (asked & here).sum(1)))
    return found[0], found[1]


@torch.no_grad()
def logprobs_of(model: HybridLM, rows: Sequence[Row]) -> Tensor:
    """Log-probabilities [N, 2] of both answers of each row, on the CPU."""
    nothing = torch.zeros(len(rows), 2)
    found = []
    for start in range(0, len(rows), _ROWS):
        numbers = range(start, min(start + _ROWS, len(rows)))
        batch = moved(batched(rows, numbers, nothing), device_of(model))
        assert isinstance(batch, PairBatch)
        found.append(torch.stack([side.policy for side in sides(model, batch)], dim=1).cpu())
    return torch.cat(found)


def kept_reference(path: Path, model: HybridLM, rows: Sequence[Row], known: dict[str, str]) -> Tensor:
    """Log-probabilities of the reference, computed once and kept at `path` with their hash and what is `known` of it.

    Raises:
        PreferenceError: the file is damaged, or of other pairs or another model.
    """
    if not path.exists():
        found = logprobs_of(model, rows)
        draft = path.with_name(f".{path.name}.draft")
        save_file({"logprobs": found}, draft, metadata={"known": json.dumps(known), "sha256": _sum(found)})
        fsync_file(draft)
        draft.rename(path)
        fsync_directory(path.parent)
    try:
        with safe_open(path, framework="pt") as file:
            there: Tensor = file.get_tensor("logprobs")
            about = file.metadata()
        whole = about["sha256"] == _sum(there) and json.loads(about["known"]) == known and len(there) == len(rows)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as wrong:
        raise PreferenceError(f"{path} cannot be read: {wrong}", advice="delete it: it is computed again") from wrong
    if not whole:
        raise PreferenceError(f"{path} is damaged or of another round", advice="delete it: it is computed again")
    return there


def _row(pair: Pair, template: ChatTemplate) -> Row:
    prompt = template.encode(pair.prompt)
    answers = ((pair.chosen, pair.chosen_cut), (pair.rejected, pair.rejected_cut))
    inputs, targets, documents = [], [], []
    for side, (text, cut) in enumerate(answers):
        tokens = [*prompt, *_answer(pair.prompt, prompt, text, template, cut)]
        inputs.append(torch.tensor(tokens[:-1]))
        targets.append(torch.tensor([*[IGNORED] * (len(prompt) - 1), *tokens[len(prompt) :]]))
        documents.append(torch.full((len(tokens) - 1,), side))
    return Row(torch.cat(inputs), torch.cat(targets), torch.cat(documents))


def _answer(messages: Sequence[Message], prompt: list[int], text: str, template: ChatTemplate, cut: bool) -> list[int]:
    """An answer's tokens, its end among them unless it was cut."""
    whole = template.encode([*messages, Message(role="assistant", content=text)], reply=False)
    if whole[: len(prompt)] != prompt:
        raise ChatError(
            "the chat template writes a prompt in another way once it is answered",
            advice="use a template that keeps what was said, or our plain one",
        )
    answer = whole[len(prompt) :]
    last = max((place for place, token in enumerate(answer) if token in template.ends), default=len(answer))
    return answer[:last] if cut and last else answer[: last + 1]


def _sum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
