"""Lever 4: what a tutor answered, verified and as it is, at equal tokens."""

import json
from pathlib import Path

from levers.ground import ANSWER, EXACT, FORGOTTEN, KNOWN, NATS, SEQUENCE, TASKS, Figure, Ground, Lever, Rows, write
from trainer.chat import template_of
from trainer.generation import Engine
from trainer.rewards import Problem, is_held_out
from trainer.synthesis import Recipe, synthesise
from trainer.tutors.checkpoint import OurTutor

_PROBLEMS, _SAMPLES = 1_200, 2
_FILTERS = {"tutor, unverified": [], "tutor, verified": [{"kind": "verifier", "of": "answer"}]}


def recipe(seed: int, filters: list[dict[str, str]]) -> Recipe:
    asked = {"role": "user", "content": "{problem}"}
    step = {"name": "answer", "messages": [asked], "sampling": {"temperature": 1.0, "max_tokens": ANSWER}}
    return Recipe.model_validate(
        {
            "name": "sums",
            "kind": "mathematics",
            "seeds": {"kind": "problems", "tasks": TASKS.model_dump(), "count": _PROBLEMS},
            "steps": [step],
            "conversation": [asked, {"role": "assistant", "content": "{answer}"}],
            "samples": _SAMPLES,
            "filters": filters,
            "seed": seed,
        }
    )


def rows(ground: Ground, seed: int) -> Rows:
    checkpoint, _ = ground.sft(seed)
    tokenizer = ground.corpus.tokenizer
    engine = Engine(checkpoint.model().to(ground.device), tokenizer=tokenizer, context=SEQUENCE, slots=64)
    tutor = OurTutor("SFT", engine, tokenizer, template_of(checkpoint.directory, tokenizer))
    found: Rows = {"tutor": ground.judged(checkpoint.model(), seed)}
    for name, filters in _FILTERS.items():
        place = ground.home / "synthesised" / f"{len(filters)}-{seed}"
        report = synthesise(recipe(seed, filters), tutor, place)
        tuned, outcome = ground.taught(learnt(place / "examples.jsonl"), ground.base, seed, f"synthesis-{seed}")
        kept = {"kept": report.examples / (_PROBLEMS * _SAMPLES)}
        found[name] = ground.judged(tuned.model(), seed) | outcome.after | kept
    return found


def learnt(examples: Path) -> Path:
    """Without problems that judge: a recipe of problems draws any."""

    def judges(row: dict[str, list[dict[str, str]]]) -> bool:
        return is_held_out(Problem(row["messages"][0]["content"], "", "", ""))

    made = [json.loads(line) for line in examples.read_text().splitlines()]
    return write(examples.with_name("learnt.jsonl"), (row for row in made if not judges(row)))


LEVER = Lever(
    "synthesis",
    f"SFT of the base on its tutor's answers (the seed's SFT model, {len(KNOWN)} levels, temperature 1), verified or "
    "not, at equal tokens",
    rows,
    (EXACT, NATS, FORGOTTEN, Figure("kept", "answers kept, %", 100, 1)),
    (("verifying", "tutor, verified", "tutor, unverified"), ("verified against its tutor", "tutor, verified", "tutor")),
)
