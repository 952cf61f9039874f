"""Lever 7: a model learns from answers of its own that a verifier has judged."""

import copy
import math
import time
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainer.chat import template_of
from trainer.engine import Run
from trainer.errors import CheckpointError, Interrupted, TrainingDiverged
from trainer.model import HybridLM
from trainer.optimisers import make_optimiser
from trainer.ranks import Ranks
from trainer.recipe import Recipe
from trainer.rewards import number_of
from trainer.rl.asking import Answer, Asking
from trainer.rl.curriculum import Curriculum
from trainer.rl.experience import Experience, Objective
from trainer.rl.losses import PolicyLoss, advantages_of, truncated_importance
from trainer.rl.options import RlOptions
from trainer.rl.rollouts import Ahead, Rollouts, mean
from trainer.stage import Outcome, Workspace
from trainer.state import restore_state, training_state
from trainer.step import prepared, take_step


class Rl(Recipe, RlOptions):
    """GRPO-style reinforcement learning: groups of answers to verifiable problems, better against worse.

    A step draws problems by the curriculum, samples a group of answers to each, and moves the policy by their
    advantages. `batch` is answers a step, `sequence` tokens of prompt and answer together, so `tokens` is at most what
    is read. Of several ranks the first does it all.

    Before and after: success on held-out problems by level, answered greedily, and held-out bits per byte.
    """

    kind: Literal["rl"] = "rl"
    tokens: int = Field(default=2_000_000, ge=1)
    batch: int = Field(default=64, ge=2, description="Answers a step")
    sequence: int = Field(default=96, ge=8, description="Tokens that prompt and answer may have together")
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.02, ge=0, le=1)
    decay: float = Field(default=0.2, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Rl":
        if self.batch % self.samples:
            raise ValueError(f"groups of {self.samples} answers do not divide a batch of {self.batch}")
        if self.batch % self.mini_batches:
            raise ValueError(f"{self.mini_batches} mini-batches do not divide a batch of {self.batch} evenly")
        if self.answer >= self.sequence:
            raise ValueError(f"answers of {self.answer} tokens leave no room for a prompt in {self.sequence}")
        if self.ema is not None or self.spikes is not None or self.evaluate_every is not None or self.compile:
            raise ValueError("ema, spikes, evaluate_every and compile are of stages that read a corpus")
        return self

    def reads(self) -> dict[str, str]:
        """The files of problems, if they come from some."""
        known = self.tasks.identity()
        return {"tasks": known} if known else {}

    def perform(self, workspace: Workspace) -> Outcome:
        """Train the model.

        Raises:
            CheckpointError: no stage before it left a model.
            ProblemError: problems cannot be had.
        """
        ranks = workspace.ranks
        if ranks.world > 1:
            alone = replace(workspace, ranks=Ranks(device=ranks.device))
            return ranks.once(lambda: self._performed(alone))
        return self._performed(workspace)

    def _performed(self, workspace: Workspace) -> Outcome:
        if workspace.start is None:
            raise CheckpointError("there is no model to improve", advice="put a pretraining stage before it")
        model = workspace.placed(workspace.start.model())
        template = template_of(workspace.start.directory, workspace.corpus.tokenizer)
        asking = Asking(self, self.sequence, workspace.corpus, template)
        run = workspace.run()
        before = self._figures(model, asking, workspace)
        practise(model, self, asking, run)
        sealed = workspace.seal(model)
        return Outcome(
            stage=self.kind,
            checkpoint=sealed.directory,
            before=before,
            after=self._figures(model, asking, workspace),
            tokens=self.steps * self.batch * self.sequence,
            parameters=model.architecture.parameters,
            seconds=run.seconds,
        )

    def _figures(self, model: HybridLM, asking: Asking, workspace: Workspace) -> dict[str, float]:
        success = asking.success(model, self.tasks.names, self.held_out, self.seed)
        return success | workspace.held_out(model, self.sequence)


def practise(model: HybridLM, stage: Rl, asking: Asking, run: Run) -> Curriculum:
    """Train `model` in place, from where `run.rolling` left off if it did; the curriculum as it ends.

    All randomness is a function of seed and step, and the curriculum is saved with the weights.

    Raises:
        Interrupted: `run.should_stop` said so; the state is saved.
        TrainingDiverged: a loss is no finite number; the last saved state is before it.
        ProblemError: problems cannot be had.
    """
    practice = _Practice(model, stage, asking, run)
    with prepared(model, stage):
        practice.perform()
    model.eval()
    return practice.curriculum


class _Practice:
    """What lives as long as one call of `practise`."""

    def __init__(self, model: HybridLM, stage: Rl, asking: Asking, run: Run) -> None:
        self._model, self._stage, self._run = model, stage, run
        self._optimiser = make_optimiser(model, stage)
        self.curriculum = Curriculum(stage.tasks.names, stage.curriculum)
        self._reference = copy.deepcopy(model).requires_grad_(False) if stage.kl else None
        self._loss = PolicyLoss(stage.aggregation, stage.ratio, stage.clip_low, stage.clip_high, stage.delta, stage.kl)
        self._step = 0
        self._pause = run.save_seconds
        self._ahead = Ahead(
            stage,
            asking,
            seed=stage.seed,
            steps=stage.steps,
            groups=stage.batch // stage.samples,
            rows=stage.micro_batch or stage.batch,
        )

    def perform(self) -> None:
        with self._ahead:
            self._perform()

    def _perform(self) -> None:
        self._resume()
        self._saved = time.monotonic()
        while self._step < self._stage.steps:
            begun = time.monotonic()
            metrics = self._advance()
            self._step += 1
            self._run.seconds += time.monotonic() - begun
            read = self._stage.batch * self._stage.sequence
            self._run.report(self._step * read, self._stage.steps * read, metrics)
            self._save_or_stop()

    def _advance(self) -> dict[str, float]:
        rollouts = self._ahead.take(self._step, self._model, self.curriculum)
        metrics = self._told(rollouts)
        rewards = torch.tensor([[answer.reward for answer in group] for group in rollouts.groups])
        advantages = advantages_of(rewards, self._stage.scale).flatten()
        answers = [answer for group in rollouts.groups for answer in group]
        experience, apart = self._experience(answers, advantages, rollouts)
        metrics |= {
            "response_length": mean([len(answer.tokens) for answer in answers]),
            "truncated": mean([answer.truncated for answer in answers]),
        }
        return metrics | apart | self._learn(experience)

    def _told(self, rollouts: Rollouts) -> dict[str, float]:
        """Tell the curriculum; what was drawn, and where the curriculum is."""
        for level, (right, tried) in rollouts.outcomes.items():
            self.curriculum.record(level, right, tried)
        shares = {f"share/{level}": share for level, share in self.curriculum.shares().items()}
        found = rollouts.figures | {"level": float(self.curriculum.reached)} | shares
        self.curriculum.step()
        return found

    def _experience(
        self, answers: list[Answer], advantages: Tensor, rollouts: Rollouts
    ) -> tuple[Experience, dict[str, float]]:
        """With the log-probabilities before the first update, and how far others are from them.

        That the sampler computes otherwise than the trainer is told apart from that it may have been an older policy.
        """
        stage, end = self._stage, answers[0].prompt[0]
        made = Experience.of(answers, advantages, end, mask_truncated=stage.mask_truncated)
        # Of the same weights they are known.
        old = rollouts.logprobs if rollouts.policy == self._step else self._ahead.logprobs(self._model, made)
        reference = None if self._reference is None else self._ahead.logprobs(self._reference, made)
        apart = (rollouts.logprobs - made.sampler).abs() * made.mask
        count = made.mask.sum().clamp(min=1)
        figures = {"mismatch": float(apart.sum() / count), "mismatch/most": float(apart.max())}
        if stage.ahead:
            lag = ((old - rollouts.logprobs).abs() * made.mask).sum() / count
            figures |= {"staleness": float(self._step - rollouts.policy), "lag": float(lag)}
        weights = None
        if stage.correction is not None:
            weights = truncated_importance(old, made.sampler, made.mask, most=stage.correction, level=stage.ratio)
        return replace(made, old=old, reference=reference, correction=weights), figures

    def _learn(self, experience: Experience) -> dict[str, float]:
        """Go over the answers `updates` times, in mini-batches of an order of its own each."""
        stage = self._stage
        objective = Objective(experience, self._loss, stage.temperature, stage.answer)
        norms: list[float] = []
        rate = 0.0
        self._model.train()
        for update in range(stage.updates):
            generator = torch.Generator().manual_seed(number_of("order", stage.seed, self._step, update))
            order = torch.randperm(len(experience.mask), generator=generator)
            for chosen in order.chunk(stage.mini_batches):
                batch = objective.begin(chosen)
                done = take_step(self._model, batch, stage, objective, self._optimiser, self._step, self._accepts)
                assert done is not None  # what is not accepted raises
                norms.append(done["gradient_norm"])
                rate = done["learning_rate"]
        self._model.eval()
        # The loss is not told: near the sampling policy it is about zero, and says nothing of progress.
        return objective.figures() | {"gradient_norm": mean(norms), "learning_rate": rate}

    def _accepts(self, loss: float) -> bool:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss} at step {self._step} of {self._stage.steps}",
                advice=f"lower the learning rate (it is {self._stage.learning_rate}) or the updates of a step",
            )
        return True

    def _save_or_stop(self) -> None:
        stop = self._step < self._stage.steps and self._run.should_stop()
        if stop or time.monotonic() - self._saved >= self._pause:
            self._save()
        if stop:
            raise Interrupted(
                f"stopped after {self._step} of {self._stage.steps} steps", advice="start it again to carry on"
            )

    def _resume(self) -> None:
        latest = self._run.rolling.latest() if self._run.rolling else None
        if latest is None:
            return
        restore_state(latest, self._model, self._optimiser)
        self.curriculum.restore(latest.notes["curriculum"])
        self._ahead.restore(latest.notes["ahead"])
        self._run.seconds, self._step = latest.notes["seconds"], latest.notes["step"]

    def _save(self) -> None:
        if self._run.rolling is None:
            return
        begun = time.monotonic()
        notes = {
            "step": self._step,
            "seconds": self._run.seconds,
            "curriculum": self.curriculum.state(),
            "ahead": self._ahead.state(),
        }
        self._run.rolling.save(training_state(self._model, self._optimiser), self._step, notes)
        self._saved = time.monotonic()
        self._pause = self._run.save_seconds * max(1.0, self._saved - begun)
