"""Curation as a whole: filters one after another, what each removed, and the rows that are left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.checkpoint import Checkpoint
from trainer.curation import alike, quality
from trainer.curation.difficulty import Difficulty, Sampling, difficulties
from trainer.curation.diversity import centres, embedded
from trainer.curation.recipe import Curation
from trainer.dialogues import Conversation, Skipped

_EXAMPLES, _CONFLICTS, _SHOWN = 5, 100, 200

Report = Callable[[str, int, int], None]
"""(what is done, how far, of how much)."""
Filter = Callable[[Sequence[Conversation]], dict[int, str]]
"""Numbers of the conversations that go, and why."""


@dataclass(frozen=True)
class Curated:
    """The rows that are left, in the order to train on them, and the report of what went."""

    rows: list[dict[str, Any]]
    report: dict[str, Any]


def curate(
    conversations: Sequence[Conversation],
    asked: Curation,
    *,
    skipped: Skipped,
    checkpoints: Sequence[Checkpoint] = (),
    sequence: int = 1024,
    report: Report,
) -> Curated:
    """Filter `conversations`. What results is a function of the arguments alone.

    A row that stays is as it was, with its scores under `curation`: quality, and with checkpoints nats, success, and
    the samples that this is of.
    """
    rules = {row.place: quality.broken(row) for row in conversations}
    hard: dict[str, Difficulty] = {}
    if checkpoints:
        sampling = Sampling(asked.samples, asked.temperature, asked.max_tokens) if asked.samples else None
        told = difficulties(conversations, checkpoints, sequence, lambda *at: report("difficulty", *at), sampling)
        hard = {row.place: each for row, each in zip(conversations, told, strict=True) if each is not None}
    kept, steps = list(conversations), []
    filters = _filters(asked, rules, hard, report)
    for number, (name, find) in enumerate(filters.items()):
        report(name, number, len(filters))
        gone, alone = find(kept), len(find(conversations))
        steps.append(_step(name, gone, kept, alone))
        kept = [row for place, row in enumerate(kept) if place not in gone]
    if asked.order and hard:
        kept.sort(key=lambda row: _rank(hard.get(row.place)))
    found = {
        "rows": len(conversations) + skipped.count,
        "bad_rows": skipped.reasons,
        "bad_examples": [vars(bad) for bad in skipped.examples],
        "kept": len(kept),
        "filters": steps,
        "conflicts": _conflicts(conversations),
        "broken_rules": {name: sum(name in broken for broken in rules.values()) for name in quality.RULES},
        "recipe": asked.model_dump(),
    }
    if checkpoints:
        found["difficulty"] = _quartiles(hard, len(conversations))
    return Curated([_scored(row, rules[row.place], hard.get(row.place)) for row in kept], found)


def _filters(
    asked: Curation, rules: dict[str, list[str]], hard: dict[str, Difficulty], report: Report
) -> dict[str, Filter]:
    def length(rows: Sequence[Conversation]) -> dict[int, str]:
        return {n: why for n, row in enumerate(rows) if (why := _length(row, asked))}

    def good(rows: Sequence[Conversation]) -> dict[int, str]:
        least = asked.quality or 0.0
        return {n: ", ".join(rules[row.place]) for n, row in enumerate(rows) if quality.score(rules[row.place]) < least}

    def difficulty(rows: Sequence[Conversation]) -> dict[int, str]:
        least, most = asked.easiest or 0.0, float("inf") if asked.hardest is None else asked.hardest
        judged = {n: hard[row.place].nats for n, row in enumerate(rows) if row.place in hard}
        return {n: f"{nats:.3f} nats a token" for n, nats in judged.items() if not least <= nats <= most}

    def solved(rows: Sequence[Conversation]) -> dict[int, str]:
        least, most = asked.solved_least or 0.0, 1.0 if asked.solved_most is None else asked.solved_most
        judged = {n: hard[row.place].success for n, row in enumerate(rows) if row.place in hard}
        return {n: f"success of {rate:.3f}" for n, rate in judged.items() if not least <= rate <= most}

    def diverse(rows: Sequence[Conversation]) -> dict[int, str]:
        count = len(rows) if asked.keep is None else asked.keep
        if count >= len(rows):
            return {}
        points = embedded([alike.words_of(row) for row in rows])
        chosen = set(centres(points, count, lambda *at: report("diversity", *at)))
        return {n: "near to one that stays" for n in range(len(rows)) if n not in chosen}

    found: dict[str, Filter] = {"length": length}
    if asked.quality is not None:
        found["quality"] = good
    if asked.conflicts != "list":
        what = asked.conflicts
        found["conflicts"] = lambda rows: alike.contradicted(rows, what)
    if asked.exact_duplicates:
        found["exact_duplicates"] = alike.exact_duplicates
    if (threshold := asked.near_duplicates) is not None:
        found["near_duplicates"] = lambda rows: alike.near_duplicates(rows, threshold)
    if asked.easiest is not None or asked.hardest is not None:
        found["difficulty"] = difficulty
    if asked.solved_least is not None or asked.solved_most is not None:
        found["success"] = solved
    if asked.keep is not None:
        found["diversity"] = diverse
    return found


def _length(row: Conversation, asked: Curation) -> str | None:
    answers = sum(len(message.content) for message in row.messages if message.role == "assistant")
    whole = len(alike.text_of(row))
    calls = any(message.tool_calls for message in row.messages)
    if answers < asked.shortest and not calls:
        return f"answers of {answers} characters"
    return f"{whole} characters" if whole > asked.longest else None


def _step(name: str, gone: dict[int, str], rows: Sequence[Conversation], alone: int) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for why in gone.values():
        key = "by its figure" if any(letter.isdigit() for letter in why) else why
        reasons[key] = reasons.get(key, 0) + 1
    examples = [
        {"place": rows[n].place, "why": why, "prompt": rows[n].prompt[:_SHOWN], "answer": rows[n].answer[:_SHOWN]}
        for n, why in list(gone.items())[:_EXAMPLES]
    ]
    return {
        "name": name,
        "before": len(rows),
        "removed": len(gone),
        "removed_alone": alone,
        "reasons": reasons,
        "examples": examples,
    }


def _conflicts(rows: Sequence[Conversation]) -> dict[str, Any]:
    found = alike.conflicts(rows)
    listed = [
        {
            "prompt": rows[next(iter(answers.values()))[0]].prompt[:_SHOWN],
            "answers": [
                {"answer": rows[numbers[0]].answer[:_SHOWN], "places": [rows[n].place for n in numbers]}
                for numbers in answers.values()
            ],
        }
        for answers in found[:_CONFLICTS]
    ]
    return {"prompts": len(found), "listed": listed}


def _quartiles(hard: dict[str, Difficulty], rows: int) -> dict[str, float]:
    ordered = sorted(each.nats for each in hard.values())
    found = {f"nats_{q}": ordered[(len(ordered) - 1) * q // 100] for q in (0, 25, 50, 75, 100)} if ordered else {}
    success = sum(each.success for each in hard.values()) / max(1, len(hard))
    sampled = sum(each.samples > 0 for each in hard.values())
    return found | {"success": success, "sampled": float(sampled), "unread": float(rows - len(hard))}


def _rank(hard: Difficulty | None) -> tuple[float, float]:
    """Easy to hard: by success, and where that is equal by nats; what no checkpoint can read goes last."""
    return (1.0, float("inf")) if hard is None else (1 - hard.success, hard.nats)


def _scored(row: Conversation, broken: list[str], hard: Difficulty | None) -> dict[str, Any]:
    scores: dict[str, Any] = {"quality": round(quality.score(broken), 4)}
    if hard is not None:
        scores |= vars(hard)
    return {**row.row, "curation": scores}
