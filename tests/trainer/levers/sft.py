"""Lever 5: SFT before and after, on clean conversations."""

from levers.ground import EXACT, FORGOTTEN, NATS, Ground, Lever, Rows


def rows(ground: Ground, seed: int) -> Rows:
    tuned, outcome = ground.sft(seed)
    return {
        "base": ground.judged(ground.base.model(), seed) | outcome.before,
        "SFT": ground.judged(tuned.model(), seed) | outcome.after,
    }


LEVER = Lever(
    "sft",
    "SFT on 1,500 clean conversations; judged on held-out problems, asked in chats",
    rows,
    (EXACT, NATS, FORGOTTEN),
    (("SFT", "SFT", "base"),),
)
