"""Lever 6: rounds of answers, preferences between them, and training on those."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from trainer.chat import ChatTemplate, template_of
from trainer.checkpoint import Checkpoint, Rolling
from trainer.data import Batch
from trainer.engine import train
from trainer.errors import CheckpointError
from trainer.files import fsync_directory, write_text
from trainer.generation import SamplingParams
from trainer.model import HybridLM
from trainer.options import PreferenceOptions
from trainer.preference.batches import PairBatch, PairCorpus, encode, kept_reference, logprobs_of, sides
from trainer.preference.judges import Case, Judge, total
from trainer.preference.losses import preference_loss
from trainer.preference.pairs import make_pairs, revised
from trainer.preference.rollouts import of_student, of_tutor
from trainer.preference.rows import Pair, PreferenceError, cases_of, read_cases, read_pairs, written
from trainer.preference.table import Table
from trainer.recipe import Recipe
from trainer.stage import Outcome, Workspace

_EXAMINED = 1_000_000_007  # seeds of the answers that are examined


class Ended(BaseModel):
    """How a round ended, as it is kept beside its pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begun: str = Field(description="Name of the checkpoint that answered")
    checkpoint: str = Field(description="Name of the one that was trained")
    figures: dict[str, float]
    seconds: float


class Preference(Recipe, PreferenceOptions):
    """Trains on pairs of answers: its own of each round, as a judge prefers them, or given ones.

    A step reads `batch` pairs, each of at most `sequence` tokens with its prompt twice; `tokens` are shared by the
    rounds. In each the policy that answered is the reference.

    Before and after: bits per byte (what is forgotten), the win rate against the model that the stage began with, by an
    examiner that chose no pair, and the mean score of both. After: the reward margin and accuracy on the last round's
    pairs, log-ratios to its reference in nats, and the figures of its pairs and judge.
    """

    kind: Literal["preference"] = "preference"
    tokens: int = Field(default=400_000, ge=1)
    batch: int = Field(default=16, ge=1, description="Pairs a step")
    sequence: int = Field(default=256, ge=16, description="Most tokens of a pair: its prompt twice, and both answers")
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decay: float = Field(default=1.0, ge=0, le=1)

    def reads(self) -> dict[str, str]:
        """What the files hold that it reads.

        Raises:
            PreferenceError: one cannot be read.
        """
        return {str(path): _sum(path) for path in (self.prompts, self.pairs) if path is not None}

    def perform(self, workspace: Workspace) -> Outcome:
        """Go through the rounds, or carry on with them.

        Raises:
            CheckpointError: no stage before it left a model.
            PreferenceError: prompts or pairs that cannot be used, or none that the judge prefers.
        """
        if workspace.start is None:
            raise CheckpointError("there is no model to train", advice="put a pretraining stage before it")
        cases, pairs = self._read()
        table = Table.of(self, workspace.directory.parent / "answers")
        examination = self._examination(workspace, cases, table)
        learnt = [case for case in cases if case.draw >= self.held_out]
        given = None if pairs is None else [pair for pair in pairs if Case(pair.prompt).draw >= self.held_out]
        if not learnt:
            raise PreferenceError("all prompts are held out", advice="give more prompts, or lower `held_out`")
        checkpoint, ends = workspace.start, list[Ended]()
        for number in range(1 if given is not None else self.rounds):
            one = _Round(self, number, checkpoint, learnt, given, table, workspace)
            ends.append(one.perform())
            checkpoint = Checkpoint(workspace.sealed / ends[-1].checkpoint)
        after = workspace.ranks.once(lambda: examination.figures(checkpoint))
        return Outcome(
            stage=self.kind,
            checkpoint=checkpoint.directory,
            before=workspace.ranks.once(lambda: examination.figures(workspace.start)),
            after=after | ends[-1].figures,
            tokens=sum(self.of_round(number).steps for number in range(len(ends))) * self.batch * self.sequence,
            parameters=checkpoint.architecture.parameters,
            seconds=sum(end.seconds for end in ends),
        )

    def of_round(self, number: int) -> Recipe:
        """How a round trains."""
        rounds = 1 if self.pairs is not None else self.rounds
        known = {name: getattr(self, name) for name in Recipe.model_fields}
        return Recipe.model_validate(known | {"tokens": max(1, self.tokens // rounds), "seed": self.seed + number})

    def sampling(self, seed: int) -> SamplingParams:
        """How answers are drawn."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)

    def _read(self) -> tuple[list[Case], list[Pair] | None]:
        if self.prompts is not None:
            return read_cases(self.prompts), None
        assert self.pairs is not None
        pairs = read_pairs(self.pairs)
        return cases_of(pairs), pairs

    def _examination(self, workspace: Workspace, cases: Sequence[Case], table: Table) -> "_Examination":
        held_out = [case for case in cases if case.draw < self.held_out]
        if self.held_out and not held_out:
            raise PreferenceError(
                f"none of {len(cases)} prompts is held out for the win rate",
                advice="give more prompts, or raise `held_out`; 0 goes without a win rate",
            )
        return _Examination(self, workspace, held_out, table.examiner, table.judge)


@dataclass
class _Examination:
    """The held-out figures of a model, against the one that the stage began with."""

    stage: Preference
    workspace: Workspace
    cases: list[Case]
    examiner: Judge
    judge: Judge | None
    _first: list[str] | None = None

    def figures(self, checkpoint: Checkpoint | None) -> dict[str, float]:
        assert checkpoint is not None
        assert self.workspace.start is not None
        found = self.workspace.held_out(self.workspace.placed(checkpoint.model()), self.stage.sequence)
        if not self.cases:
            return found
        first = self._first = self._first or self._answers(self.workspace.start)
        answers = first if checkpoint == self.workspace.start else self._answers(checkpoint)
        asked = [case for case in self.cases for _ in range(self.stage.samples)]
        votes = self.examiner.compare(list(zip(asked, answers, first, strict=True)))
        won = sum((1 + vote.preferred) / 2 for vote in votes)
        found |= {"win_rate": won / len(votes), "examiner_score": _mean_score(self.examiner, asked, answers)}
        return found if self.judge is None else found | {"judge_score": _mean_score(self.judge, asked, answers)}

    def _answers(self, checkpoint: Checkpoint) -> list[str]:
        model, tokenizer = self.workspace.placed(checkpoint.model()), self.workspace.corpus.tokenizer
        sampling = self.stage.sampling(self.stage.seed + _EXAMINED)
        template = _template(self.workspace)
        groups = of_student(model, tokenizer, template, self.cases, sampling, self.stage.samples)
        return [answer.text for group in groups for answer in group]


@dataclass
class _Round:
    """One round. What it made lies beside the stage's training, and is not made twice."""

    stage: Preference
    number: int
    begun: Checkpoint
    cases: list[Case]
    given: list[Pair] | None
    table: Table
    workspace: Workspace

    @property
    def folder(self) -> Path:
        return self.workspace.directory.parent / f"round-{self.number:02d}"

    def perform(self) -> Ended:
        ranks = self.workspace.ranks
        kept = ranks.once(self._kept)
        if kept is not None:
            return kept
        model = self.workspace.placed(self.begun.model())
        made = ranks.once(lambda: self._pairs(model))
        file = self.folder / "pairs.jsonl"
        rows = encode(read_pairs(file), _template(self.workspace), self.stage.sequence)
        known = {"pairs": _sum(file), "model": self.begun.directory.name, "sequence": str(self.stage.sequence)}
        reference = ranks.once(lambda: kept_reference(self.folder / "reference.safetensors", model, rows, known))
        directory = self.workspace.directory / self.folder.name
        run = replace(self.workspace, directory=directory, report=self._report).run()
        corpus = PairCorpus(self.workspace.corpus, rows, reference)
        train(model, corpus, self.stage.of_round(self.number), self._loss, run)
        rewards = ranks.once(lambda: logprobs_of(model, rows) - reference)
        figures = made | _margins(rewards) | {"left_out": float(made["pairs"] - len(rows))}
        sealed = self.workspace.seal(model)
        ended = Ended(
            begun=self.begun.directory.name, checkpoint=sealed.directory.name, figures=figures, seconds=run.seconds
        )
        ranks.once(lambda: _write(self.folder / "round.json", ended.model_dump_json(indent=2)))
        ranks.once(Rolling(directory).clear)
        return ended

    def _loss(self, model: HybridLM, batch: Batch) -> Tensor:
        assert isinstance(batch, PairBatch)
        return preference_loss(*sides(model, batch), self.stage.losses)

    def _report(self, done: int, whole: int, metrics: dict[str, float]) -> None:
        rounds = 1 if self.given is not None else self.stage.rounds
        self.workspace.report(self.number * whole + done, rounds * whole, metrics)

    def _kept(self) -> Ended | None:
        file = self.folder / "round.json"
        if not file.exists():
            return None
        try:
            ended = Ended.model_validate_json(file.read_text())
        except ValueError as wrong:
            raise PreferenceError(f"{file} is damaged", advice="delete it: its round is trained again") from wrong
        there = (self.workspace.sealed / ended.checkpoint).is_dir()
        return ended if there and ended.begun == self.begun.directory.name else None

    def _pairs(self, model: HybridLM) -> dict[str, float]:
        """Write the round's pairs, or find them written; their figures."""
        figures, file = self.folder / "pairs.json", self.folder / "pairs.jsonl"
        if figures.exists() and file.exists():  # the figures are written last
            known: dict[str, Any] = json.loads(figures.read_text())
            if known.pop("begun") == self.begun.directory.name:
                return {name: float(value) for name, value in known.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        pairs, made = (self.given, {"pairs": float(len(self.given))}) if self.given is not None else self._judged(model)
        if not pairs:
            raise PreferenceError(
                f"round {self.number}: no two answers to any of {len(self.cases)} prompts differ for the judge, "
                f"which could not mark {made.get('unmarked', 0):.0f} of them",
                advice="ask for more `samples`, a higher `temperature` or a smaller `margin`, or another judge; "
                "or the task is learnt",
            )
        _write(file, written(pairs))
        _write(figures, json.dumps({"begun": self.begun.directory.name, **made}, indent=2))
        return made

    def _judged(self, model: HybridLM) -> tuple[list[Pair], dict[str, float]]:
        stage = self.stage
        size = min(stage.asked or len(self.cases), len(self.cases))
        asked = [self.cases[(self.number * size + place) % len(self.cases)] for place in range(size)]
        tokenizer, template = self.workspace.corpus.tokenizer, _template(self.workspace)
        sampling = stage.sampling(stage.seed * 1009 + self.number)
        answers = of_student(model, tokenizer, template, asked, sampling, stage.samples)
        table = self.table
        assert table.judge is not None
        if table.tutor is not None and stage.tutor_samples:
            theirs = of_tutor(table.tutor, asked, sampling, stage.tutor_samples)
            answers = [ours + more for ours, more in zip(answers, theirs, strict=True)]
        pairs, figures = make_pairs(asked, answers, table.judge, margin=stage.margin)
        if table.tutor is not None and stage.revise:
            pairs = revised(pairs, table.tutor, table.judge, sampling.model_copy(update={"temperature": 0.0}))
            figures["revised"] = float(sum("revised_by" in pair.provenance for pair in pairs))
        origin = {"round": self.number, "model": self.begun.directory.name, "seed": sampling.seed}
        return [replace(pair, provenance={**origin, **pair.provenance}) for pair in pairs], figures


def _template(workspace: Workspace) -> ChatTemplate:
    assert workspace.start is not None
    return template_of(workspace.start.directory, workspace.corpus.tokenizer)


def _mean_score(judge: Judge, cases: Sequence[Case], answers: Sequence[str]) -> float:
    found = judge.score(list(zip(cases, answers, strict=True)))
    totals = [total(marks, judge.criteria) for marks in found if marks is not None]
    return sum(totals) / max(1, len(totals))


def _margins(rewards: Tensor) -> dict[str, float]:
    apart = rewards[:, 0] - rewards[:, 1]
    return {"reward_margin": float(apart.mean()), "reward_accuracy": float((apart > 0).to(torch.float32).mean())}


def _write(path: Path, text: str) -> None:
    """All of it, or nothing."""
    draft = path.with_name(f".{path.name}.draft")
    write_text(draft, text)
    draft.rename(path)
    fsync_directory(path.parent)


def _sum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as wrong:
        raise PreferenceError(f"{path} cannot be read: {wrong}", advice="check the path") from wrong
