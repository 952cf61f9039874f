"""Lever 5: specialists of several distributions, merged into the model that goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field

from trainer.chat import template_of
from trainer.checkpoint import Checkpoint
from trainer.dialogues import Dialogues
from trainer.dialogues.dialogues import fingerprint
from trainer.errors import CheckpointError, Interrupted
from trainer.merge.answers import held_out_answers
from trainer.merge.options import MergeOptions
from trainer.merge.verdict import HeldOut, Scores, Verdict, merge_and_judge
from trainer.model import HybridLM
from trainer.once import first_alone, once
from trainer.options import LACKING, ChatOptions
from trainer.recipe import Recipe
from trainer.sft import Sft
from trainer.stage import Outcome, Workspace


class Merge(Recipe, MergeOptions):
    """Trains a specialist on each distribution, from the model so far and as `sft` does it, and merges them.

    Weights are searched by the mean over distributions of the held-out answers' nats a token, on one half of what is
    held out. The merge goes on if it beats every specialist on the mean over the other half; else the best specialist
    does. `tokens` and all else of how to train are each specialist's.

    Before and after, on the half to judge by: `nats`, the mean, and `nats/DISTRIBUTION`, of the model that came and of
    the one that goes on; and `bits_per_byte` of the corpus. After: `parent/NAME` and `merge/nats`, the means that were
    compared, `merge/won`, 1 or 0, and `merge/NAME`, the weights.
    """

    kind: Literal["merge"] = "merge"
    tokens: int = Field(default=500_000, ge=1, description="Tokens that each specialist is trained on")
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    decay: float = Field(default=1.0, ge=0, le=1)

    def reads(self) -> dict[str, str]:
        """The files of conversations."""
        named = [(name, path) for name, files in self.specialists.items() for path in files]
        sums = fingerprint([path for _, path in named])
        return {f"{name}: {path}": found for (name, path), found in zip(named, sums, strict=True)}

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the specialists that are not trained yet, and merge them.

        Raises:
            CheckpointError: no stage before it left a model.
            CorpusError: conversations that cannot be read, or too few to hold any out; see `trainer.dialogues`.
        """
        if workspace.start is None:
            words, advice = LACKING["model"]
            raise CheckpointError(f"merge needs {words}", advice=advice)
        apart = self._kept_apart(workspace, workspace.start)
        held_out = held_out_answers(apart, sequence=self.sequence, share=self.held_out, placed=workspace.placed)
        trained = {name: self._specialist(name, workspace) for name in self.specialists}
        parents = {name: Checkpoint(workspace.home / path) for name, path in _checkpoints(trained).items()}
        kept, before, after = first_alone(workspace, partial(self._merged, parents=parents, held_out=held_out))
        return Outcome(
            stage=self.kind,
            checkpoint=kept.directory,
            before=before,
            after=after,
            tokens=sum(outcome.tokens for outcome in trained.values()),
            parameters=kept.architecture.parameters,
            seconds=sum(outcome.seconds for outcome in trained.values()),
        )

    def _specialist(self, name: str, workspace: Workspace) -> Outcome:
        number, count = list(self.specialists).index(name), len(self.specialists)

        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            workspace.report(number * total + done, count * total, metrics)

        fields = Recipe.model_fields.keys() | ChatOptions.model_fields.keys()
        given = {field: getattr(self, field) for field in fields} | {"data": self.specialists[name]}
        place = workspace.directory.parent / f"specialist-{name}"
        return once(Sft.model_validate(given), place, replace(workspace, report=report))

    def _kept_apart(self, workspace: Workspace, start: Checkpoint) -> dict[str, Dialogues]:
        """Of every distribution what no specialist learns, by a hash of the prompt."""
        tokenizer = workspace.corpus.tokenizer
        template = template_of(start.directory, tokenizer)

        def split(files: Sequence[Path]) -> Dialogues:
            return Dialogues.open(files, tokenizer, template, on_bad=self.on_bad, long=self.long).split(self.held_out)[
                1
            ]

        return {name: split(files) for name, files in self.specialists.items()}

    def _merged(
        self, workspace: Workspace, parents: Mapping[str, Checkpoint], held_out: HeldOut
    ) -> tuple[Checkpoint, dict[str, float], dict[str, float]]:
        """The model that goes on, and the figures before and after."""
        start = workspace.start
        assert start is not None

        def searched(done: int, total: int, best: float) -> None:  # noqa: ARG001  # a Report of the search
            if workspace.should_stop():
                raise Interrupted("stopped in the search for weights", advice="start it again to carry on")
            workspace.report(done, total, {})

        ended = merge_and_judge(self.recipe, parents, start, held_out, evaluations=self.evaluations, report=searched)
        kept = workspace.seal(ended.model) if ended.won else parents[ended.best_parent.name]

        def figures(model: HybridLM, scores: Scores) -> dict[str, float]:
            found = workspace.held_out(workspace.placed(model), self.sequence) | {"nats": scores.mean}
            return found | {f"nats/{name}": nats for name, nats in scores.figures.items()}

        first = start.model()
        before = figures(first, held_out.judge("start", first))
        after = figures(kept.model(), ended.merge if ended.won else ended.best_parent)
        return kept, before, after | _compared(ended)


def _checkpoints(trained: Mapping[str, Outcome]) -> dict[str, Path]:
    return {name: outcome.checkpoint for name, outcome in trained.items() if outcome.checkpoint is not None}


def _compared(ended: Verdict) -> dict[str, float]:
    found = {f"parent/{parent.name}": parent.mean for parent in ended.parents}
    found |= {"merge/nats": ended.merge.mean, "merge/won": float(ended.won)}
    names = [parent.name for parent in ended.parents]
    return found | {f"merge/{name}": weight for name, weight in zip(names, ended.recipe.weights or (), strict=False)}
