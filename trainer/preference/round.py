"""One round: the model answers, the answers are judged, and it is trained on the pairs that result."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from trainer.chat import ChatTemplate
from trainer.checkpoint import Checkpoint, Rolling
from trainer.data import Batch
from trainer.engine import train
from trainer.generation import SamplingParams
from trainer.model import HybridLM
from trainer.preference.accounts import summed
from trainer.preference.batches import PairBatch, PairCorpus, encode, kept_reference, logprobs_of, sides
from trainer.preference.judges import Case
from trainer.preference.kept import read_of, sum_of, write, write_of
from trainer.preference.losses import preference_loss
from trainer.preference.pairs import make_pairs, revised
from trainer.preference.prompts import Prompts
from trainer.preference.rollouts import Answered, of_student, of_tutor
from trainer.preference.rows import Pair, PreferenceError, read_pairs, written
from trainer.preference.table import Table
from trainer.stage import Workspace

if TYPE_CHECKING:
    from trainer.preference.stage import Preference


class Ended(BaseModel):
    """How a round ended, as it is kept beside its pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begun: str = Field(description="Name of the checkpoint that answered")
    checkpoint: str = Field(description="Name of the one that was trained, or of the same where there were no pairs")
    figures: dict[str, float]
    seconds: float

    @property
    def learnt(self) -> bool:
        """Whether there was something to learn."""
        return self.figures["pairs"] > 0


@dataclass
class Round:
    """One round. What it made lies beside the stage's training, and is not made twice."""

    stage: "Preference"
    number: int
    begun: Checkpoint
    prompts: Prompts
    table: Table
    template: ChatTemplate
    workspace: Workspace

    @property
    def folder(self) -> Path:
        """Where it keeps what it makes."""
        return self.workspace.directory.parent / f"round-{self.number:02d}"

    def perform(self) -> Ended:
        """Do it, or what is left of it; without pairs there is nothing to train on.

        Raises:
            see `Preference.perform`.
        """
        ranks = self.workspace.ranks
        kept = ranks.once(self._kept)
        if kept is not None:
            return kept
        model = self.workspace.placed(self.begun.model())
        made = ranks.once(lambda: self._pairs(model))
        ended = self._trained(model, made) if made["pairs"] else self._ended(self.workspace.seal(model), made, 0.0)
        ranks.once(lambda: write(self.folder / "round.json", ended.model_dump_json(indent=2)))
        ranks.once(Rolling(self._training).clear)
        return ended

    @property
    def _training(self) -> Path:
        return self.workspace.directory / self.folder.name

    def _trained(self, model: HybridLM, made: dict[str, float]) -> Ended:
        ranks, file = self.workspace.ranks, self.folder / "pairs.jsonl"
        rows = encode(read_pairs(file), self.template, self.stage.sequence)
        known = {"pairs": sum_of(file), "model": self.begun.directory.name, "sequence": str(self.stage.sequence)}
        reference = ranks.once(lambda: kept_reference(self.folder / "reference.safetensors", model, rows, known))
        run = replace(self.workspace, directory=self._training, report=self._report).run()
        corpus = PairCorpus(self.workspace.corpus, rows, reference)
        train(model, corpus, self.stage.of_round(self.number), self._loss, run)
        rewards = ranks.once(lambda: logprobs_of(model, rows) - reference)
        figures = made | _margins(rewards) | {"left_out": float(made["pairs"] - len(rows))}
        return self._ended(self.workspace.seal(model), figures, run.seconds)

    def _ended(self, checkpoint: Checkpoint, figures: dict[str, float], seconds: float) -> Ended:
        return Ended(
            begun=self.begun.directory.name, checkpoint=checkpoint.directory.name, figures=figures, seconds=seconds
        )

    def _loss(self, model: HybridLM, batch: Batch) -> Tensor:
        assert isinstance(batch, PairBatch)
        return preference_loss(*sides(model, batch), self.stage.losses)

    def _report(self, done: int, whole: int, metrics: dict[str, float]) -> None:
        self.workspace.report(self.number * whole + done, self.stage.turns * whole, metrics)

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
        known = read_of(figures, self.begun.directory.name) if file.exists() else None  # the figures are written last
        if known is not None:
            return {name: float(value) for name, value in known.items()}
        given = self.prompts.pairs
        pairs, made = (given, {"pairs": float(len(given))}) if given is not None else self._judged(model)
        write(file, written(pairs))
        write_of(figures, self.begun.directory.name, made)
        return made

    def _judged(self, model: HybridLM) -> tuple[list[Pair], dict[str, float]]:
        stage, table = self.stage, self.table
        assert table.judge is not None
        cases, sampling = self._asked(), stage.sampling(stage.seed * 1009 + self.number)
        answers, asked = self._answers(model, cases, sampling)
        before = table.accounts.figures()
        judged, figures = make_pairs(cases, answers, table.judge, margin=stage.margin, overruling=table.overruling)
        if not figures["marked"] or figures.get("judge/invalid") == 1:
            raise PreferenceError(
                f"round {self.number}: {table.judge.name} gave no valid verdict on the answers to {len(cases)} prompts",
                advice="ask another judge; docs/preference.md says what a verdict is",
            )
        pairs = [pair for _, pair in judged]
        if table.tutor is not None and stage.revise:
            greedy = sampling.model_copy(update={"temperature": 0.0})
            pairs = revised(judged, table.tutor, table.judge, greedy, table.accounts.heard)
            figures["revised"] = float(sum("revised_by" in pair.provenance for pair in pairs))
        origin = {"round": self.number, "model": self.begun.directory.name, "seed": sampling.seed}
        pairs = [replace(pair, provenance={**origin, **pair.provenance}) for pair in pairs]
        return pairs, figures | summed([asked, table.accounts.since(before)])

    def _asked(self) -> list[Case]:
        cases = self.prompts.learnt
        size = min(self.stage.asked or len(cases), len(cases))
        return [cases[(self.number * size + place) % len(cases)] for place in range(size)]

    def _answers(
        self, model: HybridLM, cases: list[Case], sampling: SamplingParams
    ) -> tuple[list[list[Answered]], dict[str, float]]:
        """The model's answers and the tutor's to each prompt, and what was asked of the tutor; kept on the disk."""
        file, tutor, accounts = self.folder / "answers.json", self.table.tutor, self.table.accounts
        known = read_of(file, self.begun.directory.name)
        if known is not None:
            return [[Answered(**each) for each in group] for group in known["answers"]], known["asked"]
        before, tokenizer = accounts.figures(), self.workspace.corpus.tokenizer
        answers = of_student(model, tokenizer, self.template, cases, sampling, self.stage.samples, accounts.answered)
        if tutor is not None and self.stage.tutor_samples:
            theirs = of_tutor(tutor, cases, sampling, self.stage.tutor_samples, accounts.heard)
            answers = [ours + more for ours, more in zip(answers, theirs, strict=True)]
        asked = accounts.since(before)
        kept = [[asdict(answer) for answer in group] for group in answers]
        write_of(file, self.begun.directory.name, {"asked": asked, "answers": kept})
        return answers, asked


def _margins(rewards: Tensor) -> dict[str, float]:
    apart = rewards[:, 0] - rewards[:, 1]
    return {"reward_margin": float(apart.mean()), "reward_accuracy": float((apart > 0).to(torch.float32).mean())}
