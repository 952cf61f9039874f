"""Lever 6: preferences between a model's own answers; win rate against its SFT model by another judge."""

from levers.ground import ANSWER, FORGOTTEN, KNOWN, Figure, Ground, Lever, Rows, problem, write
from trainer.options import LossTerm, Rule
from trainer.preference.stage import Preference

_PROMPTS, _ROUNDS, _STEPS, _BATCH, _PAIR = 4_000, 3, 30, 64, 96


def rows(ground: Ground, seed: int) -> Rows:
    file = ground.home / f"prompts-{seed}.jsonl"
    if not file.exists():
        found = (problem(KNOWN[n % len(KNOWN)], "prompts", seed, n) for n in range(_PROMPTS))
        write(file, ({"prompt": each.prompt, "answer": each.answer} for each in found))
    start, _ = ground.sft(seed)
    stage = Preference(
        prompts=file,
        judge=(Rule(rule="exact"),),
        examiner=(Rule(rule="number"),),
        losses=(LossTerm(loss="sigmoid_norm", beta=8.0),),
        tokens=_ROUNDS * _STEPS * _BATCH * _PAIR,
        batch=_BATCH,
        sequence=_PAIR,
        rounds=_ROUNDS,
        samples=8,
        max_tokens=ANSWER,
        held_out=0.25,
        learning_rate=3e-4,
        seed=seed,
        **ground.precision,
    )
    better, outcome = ground.through(stage, start, f"preference-{seed}")
    return {
        "SFT": ground.judged(start.model(), seed) | outcome.before,
        "preference": ground.judged(better.model(), seed) | outcome.after,
    }


LEVER = Lever(
    "preference",
    "preferences from the SFT model's own answers, judge `exact`; win rate against that model on held-out prompts at "
    "temperature 1, ties half, by the examiner `number`",
    rows,
    (
        Figure("win_rate", "win rate, %", 100, 1),
        Figure("examiner_score", "sampled answers right, %", 100, 1),
        Figure("answers/exact", "greedy answers right, %", 100, 1),
        FORGOTTEN,
    ),
    (("preferences", "preference", "SFT"),),
)
