"""What all levers stand on: the shapes, the text, the one base model and its SFT model, and how models are judged."""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainer import pipeline
from trainer.architecture import LFM2_350M, Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint
from trainer.data import Corpus, prepare
from trainer.dialogues import Dialogues
from trainer.errors import Interrupted
from trainer.model import HybridLM
from trainer.pretrain import Pretrain
from trainer.ranks import Ranks
from trainer.rewards import Arithmetic, Problem, drawn, number_of
from trainer.sft import Sft, answered
from trainer.sources import Source
from trainer.stage import Outcome, Stage
from trainer.tokenizer import train_tokenizer

VOCABULARY, SEQUENCE, ANSWER = 320, 64, 8
TEXT = "stdlib"
# Levels whose lines are in the text, easy to hard, and the share of its sums that each has.
SHARES = {"parity-3": 0.1, "last-3": 0.15, "larger-2": 0.3, "next-3": 0.25, "add-1": 0.1, "sum-2": 0.1}
KNOWN = tuple(SHARES)
TASKS = Arithmetic(levels=KNOWN)
TRAINED, LEARNT = 80_000, 1e-3  # tokens and rate of every SFT
_ATTENTION = Attention(heads=4, kv_heads=2, head_dim=32)
SHAPES = {
    "tiny": Architecture(
        vocab_size=VOCABULARY, width=96, ffn_width=192, blocks=(ShortConv(), _ATTENTION, _ATTENTION, _ATTENTION)
    ),
    "350m": LFM2_350M.model_copy(update={"vocab_size": VOCABULARY}),
}
_LINES, _TRANSCRIPTS, _CONVERSATIONS, _JUDGED = 400_000, 60_000, 1_500, 120
_BASE_SHARE = 0.3  # of a bounded time

Row = dict[str, str]
"""A prompt and its answer."""
Rows = dict[str, dict[str, float]]
"""Figures by the name of a model."""


@dataclass(frozen=True)
class Figure:
    """A column: `name` in the rows, its heading, and what it is multiplied by."""

    name: str
    heading: str
    factor: float = 1.0
    digits: int = 3


@dataclass(frozen=True)
class Lever:
    """A bench: the rows of a seed, and which of them are held against one another as (what, with it, without it)."""

    name: str
    about: str
    rows: Callable[["Ground", int], Rows]
    figures: tuple[Figure, ...]
    effects: tuple[tuple[str, str, str], ...]


EXACT = Figure("answers/exact", "right, %", 100, 1)
NATS = Figure("answers/nats", "nats/token of the answer")
FORGOTTEN = Figure(f"bits_per_byte/{TEXT}", "bits/byte of text")


@dataclass(frozen=True)
class Ground:
    """Where everything lies, and what it runs on. The same in every process."""

    home: Path
    shape: str
    device: str
    base_tokens: int
    deadline: float | None = None
    """Seconds since the epoch after which no stage goes on."""

    @property
    def late(self) -> bool:
        return self.deadline is not None and time.time() > self.deadline

    def stop_if_late(self) -> None:
        """Of work that is no stage.

        Raises:
            Interrupted: the time is over.
        """
        if self.late:
            raise Interrupted("the time is over", advice="give more minutes")

    @property
    def architecture(self) -> Architecture:
        return SHAPES[self.shape]

    @property
    def precision(self) -> dict[str, Any]:
        """Fields of every stage that trains."""
        return {"precision": "bfloat16"} if self.device.startswith("cuda") else {}

    @cached_property
    def corpus(self) -> Corpus:
        """The standard library, lines of sums, and transcripts of chats about sums; none that models are judged by."""
        sums = (("lines", _LINES, "{}{}\n", 0.6), ("transcripts", _TRANSCRIPTS, "user\n{}\nassistant\n{}\n", 0.2))
        sources = [Source(format="stdlib", name=TEXT, weight=0.2)]
        for name, count, form, weight in sums:
            file = self.home / f"{name}.jsonl"
            if not file.exists():
                dice, levels = random.Random(name), list(SHARES)
                chosen = dice.choices(levels, list(SHARES.values()), k=count)
                found = (problem(level, name, n) for n, level in enumerate(chosen))
                write(file, ({"text": form.format(each.prompt, each.answer)} for each in found))
            sources.append(Source.at(file, weight=weight))
        tokenizer = self.home / "tokenizer.json"
        if not tokenizer.exists():  # of text alone: digits stay apart
            draft = tokenizer.with_suffix(".draft")
            train_tokenizer(Source(format="stdlib").documents(), VOCABULARY).save(str(draft))
            draft.rename(tokenizer)
        return prepare(sources, self.home / "corpus", vocab_size=VOCABULARY, tokenizer=tokenizer)

    @cached_property
    def base(self) -> Checkpoint:
        """The one model that all begin with."""
        return self.pretrained(self.base_tokens, "base")[0]

    def pretrained(self, tokens: int, place: str) -> tuple[Checkpoint, Outcome]:
        stage = Pretrain(
            tokens=tokens, batch=64, sequence=SEQUENCE, learning_rate=1.2e-2, weight_decay=0.01, **self.precision
        )
        return self.through(stage, None, place)

    def sft(self, seed: int) -> tuple[Checkpoint, Outcome]:
        """The base after SFT on clean conversations of this seed."""
        file = self.home / f"sft-{seed}.jsonl"
        if not file.exists():
            found = (problem(KNOWN[n % len(KNOWN)], "sft", seed, n) for n in range(_CONVERSATIONS))
            write(file, (conversation(each.prompt, each.answer) for each in found))
        return self.taught(file, self.base, seed, f"sft-{seed}")

    def taught(
        self, file: Path | Sequence[Path], start: Checkpoint, seed: int, place: str, tokens: int = TRAINED
    ) -> tuple[Checkpoint, Outcome]:
        """`start` after the stage `sft` on files, of which nothing is held out: what judges is not in it."""
        stage = Sft(
            data=(file,) if isinstance(file, Path) else tuple(file),
            tokens=tokens,
            held_out=0,
            sequence=SEQUENCE,
            learning_rate=LEARNT,
            seed=seed,
            **self.precision,
        )
        return self.through(stage, start, place)

    def through(self, stage: Stage, start: Checkpoint | None, place: str) -> tuple[Checkpoint, Outcome]:
        """A stage by the pipeline: what is finished there is not done again, what was stopped is carried on."""
        ranks = Ranks(device=torch.device(self.device))
        found, outcomes = pipeline.run(
            [stage],
            self.architecture,
            self.corpus.directory,
            self.home / "runs" / place,
            start=start,
            report=progress(place),
            should_stop=lambda: self.late,
            ranks=ranks,
            save_seconds=60,
        )
        return found, outcomes[-1]

    def judged(self, model: HybridLM, seed: int) -> dict[str, float]:
        """Of held-out problems of all known levels, drawn for this seed: how well they are answered in chats."""
        file = self.home / f"judged-{seed}.jsonl"
        if not file.exists():
            found = {
                each.prompt: each.answer
                for level in KNOWN
                for n in range(_JUDGED)
                for each in [problem(level, "judged", seed, n, held_out=True)]
            }
            write(file, (conversation(*each) for each in found.items()))
        return self.answers(model, self.read(file))

    def read(self, file: Path) -> Dialogues:
        return Dialogues.open(file, self.corpus.tokenizer)

    def answers(self, model: HybridLM, chats: Dialogues) -> dict[str, float]:
        """The figures `answers/...` of the stage `sft`."""
        return answered(model.to(self.device), chats, SEQUENCE)


def problem(level: str, *key: object, held_out: bool = False) -> Problem:
    """A problem of a level: one that may be trained on, or one that judges."""
    return drawn(TASKS, level, number_of(*key), held_out=held_out)


def conversation(prompt: str, answer: str) -> dict[str, Any]:
    """A row for the stage `sft`."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def write(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSONL; all of it, or nothing."""
    draft = file.with_suffix(f".{os.getpid()}")
    with draft.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    draft.rename(file)
    return file


def progress(place: str, every: float = 15.0) -> Callable[[int, int, int, dict[str, float]], None]:
    """A report on stderr, a line now and then."""
    told = time.monotonic()

    def report(_: int, done: int, total: int, metrics: dict[str, float]) -> None:
        nonlocal told
        if metrics and time.monotonic() - told >= every:
            told = time.monotonic()
            seen = next((f", {name} {metrics[name]:.3f}" for name in ("loss", "success") if name in metrics), "")
            print(f"  {place}: {done:,} of {total:,} tokens{seen}", file=sys.stderr, flush=True)

    return report


def within(ground: Ground, minutes: float) -> int:
    """Tokens for the base, so that it takes its share of a bounded time; by the time of a few steps."""
    ground.pretrained(8 * 64 * SEQUENCE, "warming-up")  # kernels are chosen, memory is had
    short, long = (ground.pretrained(steps * 64 * SEQUENCE, "pace")[1] for steps in (8, 24))
    rate = (long.tokens - short.tokens) / max(1e-3, long.seconds - short.seconds)
    return min(ground.base_tokens, round(rate * _BASE_SHARE * 60 * minutes))


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """By figure."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
