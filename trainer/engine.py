"""The one training loop: every stage and the proxy give it a loss, it gives back trained weights.

All randomness is a function of seed and step, and the state is saved with the step, so a run that was killed and
resumed ends with the same bits as one that was not (on the same hardware, with the same number of threads). The model
trains where it lies, on a CPU or a GPU.
"""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.average import Average
from trainer.checkpoint import Rolling
from trainer.data import Batch, Corpus
from trainer.errors import Interrupted, TrainingDiverged
from trainer.linear_cross_entropy import linear_cross_entropy, token_nats
from trainer.metrics import memory_bytes, peak_flops, training_flops
from trainer.model import HybridLM
from trainer.optimisers import make_optimiser
from trainer.ranks import Ranks
from trainer.recipe import Recipe
from trainer.spikes import Watch
from trainer.state import restore_state, training_state
from trainer.step import Loss as Loss  # others' losses are of this type
from trainer.step import device_of, moved, prepared, take_step

_WATCHED_WINDOWS = 64  # of a held-out figure while training
_MOST_SOURCES, _FEWEST_WINDOWS = 16, 8  # of figures of each source


MakeOptimiser = Callable[[HybridLM], Optimizer]
Report = Callable[[int, int, dict[str, float]], None]
"""(tokens done, tokens in all, metrics)."""


def silent(done: int, total: int, metrics: dict[str, float]) -> None:
    """A Report that nobody reads."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass
class Run:
    """What surrounds a training: where it is saved, who is told, who may stop it."""

    rolling: Rolling | None = None
    ranks: Ranks = field(default_factory=Ranks.alone)
    report: Report = silent
    should_stop: Callable[[], bool] = never
    save_seconds: float = 20.0
    """Between saves; as many times longer as a save takes seconds, so that it costs at most a 20th of the time."""
    before_step: Callable[[int], None] | None = None
    seconds: float = field(default=0.0, init=False)
    """Time spent in steps, over every resumption."""


def train(
    model: HybridLM, corpus: Corpus, recipe: Recipe, loss: Loss, run: Run, optimiser: MakeOptimiser | None = None
) -> None:
    """Train `model` in place for `recipe.steps` steps, from where `run.rolling` left off if it did.

    Among `run.ranks` a sharded copy is trained, and `model` filled with it at the end. `optimiser` makes what moves
    the weights of the one that is trained; without it that is `make_optimiser`.

    Raises:
        Interrupted: `run.should_stop` said so; the state is saved.
        TrainingDiverged: the loss is not a finite number, or leapt too often; the last saved state is before it.
        UnevenBatch: the ranks cannot share a batch evenly.
        ValueError: a recipe that returns to saved states, and a run that saves none.
    """
    if recipe.spikes and run.rolling is None:
        raise ValueError("to return to a saved state after a spike, a run must save one")
    trained = run.ranks.shard(model)
    with prepared(trained, recipe):
        made = optimiser(trained) if optimiser else make_optimiser(trained, recipe)
        _Training(trained, corpus, recipe, loss, run, made).perform()
    run.ranks.gather(trained, model)
    model.eval()


class _Training:
    """What lives as long as one call of `train`."""

    def __init__(
        self, model: HybridLM, corpus: Corpus, recipe: Recipe, loss: Loss, run: Run, optimiser: Optimizer
    ) -> None:
        self._model, self._corpus, self._recipe, self._loss = model, corpus, recipe, loss
        self._run, self._optimiser = run, optimiser
        self._average = Average(model, recipe.ema) if recipe.ema else None
        self._watch = Watch(recipe.spikes) if recipe.spikes else None
        self._step = 0
        self._pause = run.save_seconds

    def perform(self) -> None:
        if not self._resume() and self._watch:
            self._save()
        self._saved = time.monotonic()
        self._model.train()
        while self._step < self._recipe.steps:
            if self._advance():
                self._save_or_stop()
        if self._average:
            self._average.exchange()

    def _advance(self) -> bool:
        """Take a step, or go back; whether it was taken."""
        begun = time.monotonic()
        if self._run.before_step:
            self._run.before_step(self._step)
        recipe, number = self._recipe, self._step + (self._watch.skipped if self._watch else 0)
        batch = self._corpus.batch(number, size=recipe.batch, sequence=recipe.sequence, seed=recipe.seed)
        ranks = self._run.ranks
        done = take_step(
            self._model,
            ranks.part(batch),
            recipe,
            self._loss,
            self._optimiser,
            self._step,
            self._accepts,
            ranks.mean,
            batch.counted / ranks.world,
        )
        if done is None:
            self._return()
            return False
        self._step += 1
        if self._average:
            self._average.update(self._step)
        self._run.seconds += time.monotonic() - begun
        self._tell(done)
        return True

    def _accepts(self, loss: float) -> bool:
        """Whether a step of this loss is taken; raises where it is no number and there is no way back."""
        if self._watch:
            return not self._watch.is_spike(loss)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        return True

    def _diverged(self, what: str) -> TrainingDiverged:
        recipe = self._recipe
        return TrainingDiverged(
            f"{what} at step {self._step} of {recipe.steps}",
            advice=f"lower the learning rate (it is {recipe.learning_rate}) or the gradient clip ({recipe.clip})",
        )

    def _return(self) -> None:
        """Go back to the last saved state, and pass over the batches from there to this one."""
        watch = self._watch
        assert watch is not None
        spiked, skipped, returns, seconds = self._step, watch.skipped, watch.returns, self._run.seconds
        if returns == watch.options.most:
            raise self._diverged(f"the loss leapt {returns + 1} times, the last time")
        self._resume()
        watch.skipped, watch.returns = skipped + spiked + 1 - self._step, returns + 1
        self._run.seconds = seconds

    def _tell(self, done: dict[str, float]) -> None:
        recipe, run = self._recipe, self._run
        if run.report is silent and run.ranks.world == 1:  # of several, all evaluate or none
            return
        tokens = recipe.batch * recipe.sequence
        device = device_of(self._model)
        metrics = done | {
            "tokens_per_second": self._step * tokens / max(run.seconds, 1e-9),
            "memory_bytes": float(memory_bytes(device)),
        }
        if peak := peak_flops(device, getattr(torch, recipe.precision), torch.get_num_threads()):
            needed = training_flops(self._model.architecture, recipe.sequence)
            metrics["flops_utilisation"] = metrics["tokens_per_second"] * needed / (peak * run.ranks.world)
        if self._watch and self._watch.returns:
            metrics |= {"spikes": float(self._watch.returns), "batches_skipped": float(self._watch.skipped)}
        if recipe.evaluate_every and self._step % recipe.evaluate_every == 0:
            metrics |= self._held_out()
        run.report(self._step * tokens, recipe.steps * tokens, metrics)

    def _held_out(self) -> dict[str, float]:
        self._model.eval()
        with self._average.in_place() if self._average else nullcontext():
            found = held_out(self._model, self._corpus, sequence=self._recipe.sequence, windows=_WATCHED_WINDOWS)
            self._run.ranks.reshard(self._model)
        self._model.train()
        return found

    def _save_or_stop(self) -> None:
        stop = self._step < self._recipe.steps and self._run.should_stop()
        stop, due = self._run.ranks.any(stop, time.monotonic() - self._saved >= self._pause)
        if self._watch:
            # Where a spike leads back to must not depend on the clock, nor on who stopped when.
            if self._step % self._watch.options.every == 0:
                self._save()
        elif stop or due:
            self._save()
        if stop:
            steps = self._recipe.steps
            raise Interrupted(f"stopped after {self._step} of {steps} steps", advice="start it again to carry on")

    def _resume(self) -> bool:
        """Take up the last saved state, if there is one."""
        latest = self._run.rolling.latest() if self._run.rolling else None
        if latest is None:
            return False
        restore_state(latest, self._model, self._optimiser)
        if self._average:
            latest.fill(self._average.state())
        if self._watch:
            self._watch.restore(latest.notes["spikes"])
        self._run.seconds = latest.notes["seconds"]
        self._step = latest.notes["step"]
        return True

    def _save(self) -> None:
        if self._run.rolling is None:
            return
        begun = time.monotonic()
        state = training_state(self._model, self._optimiser) | (self._average.state() if self._average else {})
        notes: dict[str, Any] = {"step": self._step, "seconds": self._run.seconds}
        if self._watch:
            notes["spikes"] = self._watch.state()
        self._run.rolling.save(state, self._step, notes)
        self._saved = time.monotonic()
        self._pause = self._run.save_seconds * max(1.0, self._saved - begun)


def hard_labels(model: HybridLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    h = model.hidden(batch.inputs, documents=batch.documents)
    return linear_cross_entropy(*model.head_factors(h), batch.targets)


def held_out(model: HybridLM, corpus: Corpus, *, sequence: int, windows: int = 256) -> dict[str, float]:
    """`bits_per_byte` of all held-out text, and `bits_per_byte/SOURCE` of each source where there are a few.

    The sources share `windows` once more; one with less held-out text than a window has no figure of its own.
    """
    found = {"bits_per_byte": bits_per_byte(model, corpus, sequence=sequence, windows=windows)}
    several = 1 < len(corpus.sources) <= _MOST_SOURCES
    sources = corpus.sources_held_out(sequence) if several else ()
    for source in sources:
        each = max(_FEWEST_WINDOWS, windows // len(sources))
        value = bits_per_byte(model, corpus, sequence=sequence, windows=each, source=source)
        found[f"bits_per_byte/{source}"] = value
    return found


@torch.no_grad()
def bits_per_byte(
    model: HybridLM,
    corpus: Corpus,
    *,
    sequence: int = 128,
    windows: int = 256,
    batch: int = 16,
    source: str | None = None,
) -> float:
    """Held-out loss: log2 loss summed over tokens / UTF-8 bytes of those tokens, over evenly spread windows.

    Of all held-out text, or of one source's.
    """
    parts = corpus.held_out(size=batch, sequence=sequence, windows=windows, source=source)
    return bits_of(model, parts, corpus.token_bytes)


@torch.no_grad()
def bits_of(model: HybridLM, batches: Iterable[Batch], token_bytes: Tensor) -> float:
    """log2 loss summed over the batches' targets / their UTF-8 bytes, by `token_bytes` [vocab] of each token."""
    nats, read = 0.0, 0
    for part in batches:
        read += int(token_bytes[part.targets].sum())
        there = moved(part, device_of(model))
        h = model.hidden(there.inputs, documents=there.documents)
        nats += float(token_nats(*model.head_factors(h), there.targets).sum())
    return nats / math.log(2) / read
