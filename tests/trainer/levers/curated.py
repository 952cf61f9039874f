"""Lever 5: a dirty pool of conversations, curated and as it is, at equal tokens."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from levers.ground import EXACT, FORGOTTEN, KNOWN, NATS, Figure, Ground, Lever, Rows, conversation, problem, write
from trainer.curation import Curation, curate
from trainer.dialogues import Skipped, conversations

_PROMPTS, _COPIES = 1_000, 40
_RECIPE = Curation(conflicts="majority")


def wrong(answer: str, dice: random.Random) -> str:
    """Another number, as near as a slip."""
    return str(int(answer) + dice.choice((-10, -2, -1, 1, 2, 10)))


def spoiled(prompt: str, answer: str, dice: random.Random) -> str:
    """What scraped and generated answers are known to be spoiled by."""
    ways = (
        prompt,
        f"{answer}\ufffd\ufffd",
        " ".join([answer] * 12),
        "As an AI language model, I cannot add.",
        f"<|im_start|>{answer}",
        f"{answer[:1]}...",
    )
    return dice.choice(ways)


def pool(seed: int) -> Iterator[dict[str, Any]]:
    """Of every prompt one to three answers, some of them wrong; a few rows flood it; a share is spoiled."""
    dice = random.Random(f"pool/{seed}")
    for number in range(_PROMPTS):
        each = problem(KNOWN[number % len(KNOWN)], "pool", seed, number)
        kind = dice.random()
        right = [each.answer]
        if kind < 0.35:  # three annotators, of whom one slips
            given = [*right, *right, wrong(each.answer, dice)]
        elif kind < 0.55:  # two, who disagree
            given = [*right, wrong(each.answer, dice)]
        elif kind < 0.65:  # one, who slips: nothing in the pool tells
            given = [wrong(each.answer, dice)]
        else:
            given = right
        for answer in given:
            yield conversation(each.prompt, answer)
        if dice.random() < 0.4:
            yield conversation(each.prompt, spoiled(each.prompt, each.answer, dice))
        if number % 50 == 0:  # one row in many copies
            yield from [conversation(each.prompt, given[-1])] * _COPIES


def rows(ground: Ground, seed: int) -> Rows:
    dirty = shuffled(ground.home / f"pool-{seed}.jsonl", seed)
    skipped = Skipped()
    read = list(conversations([dirty], skipped))
    kept = curate(read, _RECIPE, skipped=skipped, report=lambda *_: None)
    clean = write(ground.home / f"curated-{seed}.jsonl", kept.rows)
    found: Rows = {}
    for name, file, count in (("pool as it is", dirty, len(read)), ("curated", clean, len(kept.rows))):
        tuned, outcome = ground.taught(file, ground.base, seed, f"curation-{seed}")
        right = share_right(file)
        found[name] = ground.judged(tuned.model(), seed) | outcome.after | {"rows": float(count), "right": right}
    return found


def shuffled(file: Path, seed: int) -> Path:
    if not file.exists():
        made = list(pool(seed))
        random.Random(seed).shuffle(made)
        write(file, made)
    return file


def share_right(file: Path) -> float:
    """Of the rows, those whose answer is the problem's: what nobody who curates knows."""
    said = [[each["content"] for each in json.loads(line)["messages"]] for line in file.read_text().splitlines()]
    return sum(answer == str(eval(prompt.rstrip("="))) for prompt, answer in said) / len(said)


LEVER = Lever(
    "curation",
    "SFT on a dirty pool, curated or as it is, at equal tokens",
    rows,
    (EXACT, NATS, FORGOTTEN, Figure("rows", "rows", 1, 0), Figure("right", "rows that are right, %", 100, 1)),
    (("curation", "curated", "pool as it is"),),
)
