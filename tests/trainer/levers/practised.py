"""Lever 7: RL from verified answers, by level; the curriculum beside all levels alike, at equal answers."""

from levers.ground import ANSWER, FORGOTTEN, KNOWN, Figure, Ground, Lever, Rows
from trainer.chat import template_of
from trainer.checkpoint import Checkpoint
from trainer.rewards import Arithmetic, number_of
from trainer.rl.asking import Asking
from trainer.rl.options import CurriculumOptions
from trainer.rl.stage import Rl

_HOPELESS = ("sum-3", "times-2", "steps-4", "fractions-3")
_LEVELS = (*KNOWN, *_HOPELESS)
_BUDGETS = (20, 80)
_BATCH, _SAMPLES, _WINDOW, _RATE, _ASKED = 512, 8, 48, 3e-4, 50
_WAYS = ("informative", "uniform")


def rows(ground: Ground, seed: int) -> Rows:
    start, _ = ground.sft(seed)
    found: Rows = {}
    for steps in _BUDGETS:
        for way in _WAYS:
            stage = Rl(
                tasks=Arithmetic(levels=_LEVELS),
                curriculum=CurriculumOptions(sampling=way),
                redraws=0,  # so that every way samples as many answers
                batch=_BATCH,
                samples=_SAMPLES,
                sequence=_WINDOW,
                answer=ANSWER,
                tokens=steps * _BATCH * _WINDOW,
                learning_rate=_RATE,
                held_out=200,
                seed=seed,
                **ground.precision,
            )
            learnt, outcome = ground.through(stage, start, f"rl-{seed}")
            if not found:
                found["SFT"] = outcome.before | _sampled(ground, stage, start)
            found[_name(way, steps)] = outcome.after | _sampled(ground, stage, learnt)
    return found


def _sampled(ground: Ground, stage: Rl, checkpoint: Checkpoint) -> dict[str, float]:
    """The share of right answers to held-out problems, by level, at the temperature of the training."""
    template = template_of(checkpoint.directory, ground.corpus.tokenizer)
    asking = Asking(stage, stage.sequence, ground.corpus, template)
    model, found = checkpoint.model().to(ground.device), dict[str, float]()
    for level in _LEVELS:
        asked = [asking.problem(level, number_of("sampled", stage.seed, n), held_out=True) for n in range(_ASKED)]
        groups = asking.answers(model, asked, samples=4, temperature=stage.temperature, seed=stage.seed)
        right = [answer.correct for group in groups for answer in group]
        found[f"sampled/{level}"] = sum(right) / len(right)
    return {"sampled": sum(found.values()) / len(found)} | found


def _name(way: str, steps: int) -> str:
    return f"{'curriculum' if way == 'informative' else way}, {steps * _BATCH:,} answers"


LEVER = Lever(
    "rl",
    f"RL from the SFT model with verified rewards, steps of {_BATCH} answers, {_SAMPLES} a problem, none drawn again; "
    f"right answers to held-out problems in percent, greedy and sampled at temperature 1. "
    f"The base has read no {', '.join(_HOPELESS)}",
    rows,
    (
        Figure("success", "greedy, mean", 100, 1),
        *(Figure(f"success/{level}", f"greedy, {level}", 100, 1) for level in _LEVELS),
        Figure("sampled", "sampled, mean", 100, 1),
        *(Figure(f"sampled/{level}", f"sampled, {level}", 100, 1) for level in _LEVELS),
        FORGOTTEN,
    ),
    (
        *((f"RL, {_name(way, steps)}", _name(way, steps), "SFT") for way in _WAYS for steps in _BUDGETS),
        *(
            (f"curriculum - uniform, {steps * _BATCH:,}", _name(_WAYS[0], steps), _name(_WAYS[1], steps))
            for steps in _BUDGETS
        ),
    ),
)
