"""Lever 5: a model is trained on conversations, in its chat template, with a loss on the assistant's part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from trainer.chat import template_of
from trainer.data import Batch, Corpus
from trainer.dialogues import Dialogues
from trainer.dialogues.dialogues import fingerprint
from trainer.dialogues.replay import Replay, mixed_labels
from trainer.engine import Loss, hard_labels, train
from trainer.errors import CheckpointError
from trainer.evaluate.reading import losses
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.options import SftOptions
from trainer.recipe import Recipe
from trainer.stage import Outcome, Workspace
from trainer.step import device_of, moved

_EVALUATED = 32  # windows at once


class Sft(Recipe, SftOptions):
    """Trains on conversations: packed, kept apart, the loss a mean over what the assistant says in the whole batch.

    With `replay`, that share of the windows is the corpus's, and of the loss their mean over all that they say.

    Before and after, of the conversations held out: `answers/nats` a token; `answers/accuracy`, the share of tokens
    that were the likeliest; `answers/exact`, the share of answers of which all were, which greedy decoding would give
    word for word. And `bits_per_byte` of the corpus: what is forgotten.
    """

    kind: Literal["sft"] = "sft"
    tokens: int = Field(default=500_000, ge=1, description="Tokens to train on, unless epochs are given")
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    decay: float = Field(default=1.0, ge=0, le=1)

    def reads(self) -> dict[str, str]:
        """The files of conversations that are named."""
        return dict(zip(map(str, self.data), fingerprint(self.data), strict=True))

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the model.

        Raises:
            CheckpointError: no stage before it left what it trains.
            CorpusError: there are no conversations; else see `trainer.dialogues`.
        """
        begin = workspace.start if self.of == "model" else workspace.checkpoints.get("teacher")
        if begin is None:
            raise CheckpointError(f"there is no {self.of} to train on chats", advice="put a stage that makes it first")
        template = template_of(begin.directory, workspace.corpus.tokenizer)
        how: dict[str, Any] = {"on_bad": self.on_bad, "long": self.long, "order": self.order}
        chats = Dialogues.open(self.files(workspace), workspace.corpus.tokenizer, template, **how)
        read, held_out = chats.split(self.held_out)
        recipe = self.lasting(read)
        model, run = workspace.placed(begin.model()), workspace.run()
        before = self._figures(model, held_out, workspace)
        chosen = Chats(workspace.corpus, read, self.replay)
        train(model, chosen, recipe, chosen.loss, run)
        sealed = workspace.seal(model)
        return Outcome(
            stage=self.kind,
            checkpoint=sealed.directory,
            before=before,
            after=self._figures(model, held_out, workspace) | self._counts(read, held_out),
            tokens=recipe.steps * recipe.batch * recipe.sequence,
            parameters=model.architecture.parameters,
            seconds=run.seconds,
        )

    def files(self, workspace: Workspace) -> Sequence[Path]:
        """The conversations: those that are named, or what a stage before it made."""
        if self.data or workspace.data is None:
            return self.data
        return (workspace.data,)

    def lasting(self, read: Dialogues) -> Recipe:
        """This recipe, as long as its epochs: their windows and what is replayed beside them, to whole steps."""
        if self.epochs is None:
            return self
        steps = max(1, round(read.visits(self.sequence, self.epochs) / (1 - self.replay) / self.batch))
        return self.model_copy(update={"tokens": steps * self.batch * self.sequence})

    def _figures(self, model: HybridLM, held_out: Dialogues, workspace: Workspace) -> dict[str, float]:
        found = workspace.held_out(model, self.sequence)
        return found | (answered(model, held_out, self.sequence) if len(held_out) else {})

    def _counts(self, read: Dialogues, held_out: Dialogues) -> dict[str, float]:
        cut, lost = read.cut(self.sequence)
        counts = {"conversations": len(read), "held_out": len(held_out), "skipped": read.skipped.count}
        counts |= {"cut": cut, "without_answer": lost, "windows": read.windows(self.sequence)}
        counts |= {"answer_tokens": read.counted(self.sequence)}
        return {f"data/{name}": float(count) for name, count in counts.items()}


class Chats(Corpus):
    """Chats to train on and, to the training loop's figures and a share of its windows, the model's own corpus."""

    def __init__(self, corpus: Corpus, chats: Dialogues, replay: float) -> None:
        super().__init__(corpus.directory, corpus.meta, corpus.tokenizer)
        self._chats = Replay(chats, corpus, replay) if replay else chats
        self.loss: Loss = mixed_labels if replay else hard_labels

    def batch(self, step: int, *, size: int, sequence: int, seed: int, long_share: float = 0.0) -> Batch:  # noqa: ARG002  # a corpus's
        """The batch of a step, a pure function of its arguments."""
        return self._chats.batch(step, size=size, sequence=sequence, seed=seed)


@torch.no_grad()
def answered(model: HybridLM, chats: Dialogues, sequence: int) -> dict[str, float]:
    """How well a model gives the answers of `chats`, each read with what truly preceded it; see `Sft`."""
    nats, tokens, right, answers, exact = 0.0, 0, 0, 0, 0
    for batch in chats.in_order(size=_EVALUATED, sequence=sequence):
        there = moved(batch, device_of(model))
        lost, hit = losses(model, there.inputs, there.targets, there.documents)
        counted = batch.targets != IGNORED
        nats += float(lost.double().sum())
        tokens += int(counted.sum())
        right += int(hit.sum())
        # An answer is a run of what counts within one row; the next begins after a role, which does not count.
        begins = counted & ~torch.nn.functional.pad(counted, (1, 0))[:, :-1]
        number = begins.flatten().cumsum(0)[counted.flatten()] - 1
        missed = torch.zeros(int(begins.sum()), dtype=torch.int64).index_add_(0, number, 1 - hit[counted].long())
        answers += len(missed)
        exact += int((missed == 0).sum())
    return {"answers/nats": nats / tokens, "answers/accuracy": right / tokens, "answers/exact": exact / answers}
