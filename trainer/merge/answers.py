"""Held-out conversations to compare models by, in nats a token of their answers."""

from collections.abc import Callable, Mapping
from functools import partial

from trainer.dialogues import Dialogues
from trainer.merge.verdict import HeldOut, Measure
from trainer.model import HybridLM
from trainer.sft import answered


def held_out_answers(
    chats: Mapping[str, Dialogues],
    *,
    sequence: int,
    share: float = 1.0,
    placed: Callable[[HybridLM], HybridLM] = lambda model: model,
) -> HeldOut:
    """Each of `chats` is a distribution; no prompt of it is in both halves.

    Args:
        chats: what was held out, by name.
        sequence: tokens of a window.
        share: of all conversations, that these are: the lowest draws.
        placed: a model on the device to compare it on.

    Raises:
        CorpusError: too few to be halved.
    """

    def measure(model: HybridLM, half: Dialogues) -> float:
        return answered(placed(model), half, sequence)["answers/nats"]

    halves: dict[str, tuple[Measure, Measure]] = {}
    for name, held_out in chats.items():
        judged, searched = held_out.split(share / 2)
        halves[name] = partial(measure, half=searched), partial(measure, half=judged)
    return HeldOut(halves)
