"""The stages of the demo's run: every lever once, on problems that a model of minutes can learn some of.

The teacher learns to answer from lessons; the student learns from the teacher's answers, as far as the verifier finds
them right, then becomes two specialists and their merge, and goes on by preferences and by verified rewards.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.rewards import Arithmetic, drawn, number_of

if TYPE_CHECKING:
    from server.client import Client
    from server.runs import StageRequest

LEVELS = ("parity-3", "last-3", "larger-2", "next-3")
SPECIALISTS = {"digits": ("parity-3", "last-3"), "sizes": ("larger-2", "next-3")}
_LESSONS, _PRACTICE = 1500, 500  # conversations of a level: the teacher's, a specialist's
_SEEDS, _SAMPLES = 4000, 4  # problems that the teacher is asked, answers to each
_ANSWER = 8  # tokens


def stages_of_all_levers(client: "Client", effort: float) -> tuple["StageRequest", ...]:
    """Every lever, from the teacher to 4 bits; `effort` multiplies what each training reads.

    A teacher of too few lessons knows no answer, and then there is nothing to go on with: after pretraining `effort`
    counts as at least a half.
    """
    from server.runs import StageRequest
    from trainer.pipeline import default_stages

    teacher, pretrain, qat = default_stages(effort)
    after = max(0.5, effort)

    def stage(name: Any, tokens: int | None = None, **options: Any) -> StageRequest:
        scaled = None if tokens is None else round(tokens * after)
        return StageRequest(name=name, tokens=scaled, options=options)

    tasks = {"kind": "arithmetic", "levels": list(LEVELS)}
    practice = {name: [_lessons(client, levels, _PRACTICE)] for name, levels in SPECIALISTS.items()}
    chats = {"learning_rate": 1e-2, "replay": 0.2}
    preferences = {
        "tutor": "teacher",
        "examiner": [{"rule": "number"}],
        "losses": [{"loss": "sigmoid_norm", "beta": 8.0}],
        "rounds": 1,
        "samples": 6,
        "max_tokens": _ANSWER,
        "batch": 32,
        "sequence": 64,
    }
    return (
        StageRequest(name="teacher", tokens=teacher.tokens),
        StageRequest(name="pretrain", tokens=pretrain.tokens),
        stage("extend", 40_000, sequence=512, batch=2, learning_rate=1e-3),
        stage("sft", 400_000, of="teacher", data=[_lessons(client, LEVELS, _LESSONS)], **chats),
        stage("synthesise", recipe=_recipe(tasks, round(_SEEDS * after))),
        stage("sft", 350_000, **chats),
        stage("merge", 60_000, specialists=practice, evaluations=8, recipe={"method": "ties"}, replay=0.2),
        stage("preference", 200_000, tasks=tasks, problems=800, judge=[{"rule": "correct"}], **preferences),
        stage("rl", 270_000, tasks=tasks, batch=128, sequence=32, answer=_ANSWER, learning_rate=1e-3, held_out=100),
        # The whole loss is what the model says itself in full precision: text alone would take away what came after it.
        StageRequest(name="qat", tokens=qat.tokens, options={"learning_rate": 2e-3, "distillation": 1.0}),
    )


def _lessons(client: "Client", levels: Sequence[str], count: int) -> str:
    """Problems of each level with their answers, as an uploaded file of conversations; its sha256."""
    tasks = Arithmetic(levels=tuple(levels))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for number in range(count * len(levels)):
            level = levels[number % len(levels)]
            problem = drawn(tasks, level, number_of("lesson", level, number), held_out=False)
            said = (("user", problem.prompt), ("assistant", problem.answer))
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}) + "\n")
        file.flush()
        return client.upload(Path(file.name))


def _recipe(tasks: dict[str, Any], count: int) -> dict[str, Any]:
    """The teacher is asked; what most of its answers say stays, once, if it is right."""
    return {
        "name": "answers",
        "kind": "mathematics",
        "seeds": {"kind": "problems", "tasks": tasks, "count": count},
        "samples": _SAMPLES,
        "steps": [
            {
                "name": "answer",
                "messages": [{"role": "user", "content": "{problem}"}],
                "sampling": {"temperature": 0.7, "max_tokens": _ANSWER},
            }
        ],
        "conversation": [{"role": "user", "content": "{problem}"}, {"role": "assistant", "content": "{answer}"}],
        "filters": [{"kind": "self-consistency", "of": "answer"}, {"kind": "verifier", "of": "answer"}],
    }
