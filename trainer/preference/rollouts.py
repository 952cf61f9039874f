"""Answers to prompts: several of the model that learns, and of a tutor where there is one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from trainer.chat import ChatTemplate
from trainer.generation import Engine, SamplingParams, rollouts
from trainer.model import HybridLM
from trainer.preference.judges import Case
from trainer.tutors.port import Question, Tutor, Usage


@dataclass(frozen=True)
class Answered:
    """An answer, whose it is, and whether it met its limit of tokens."""

    text: str
    author: str
    cut: bool = False


def of_student(
    model: HybridLM,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    cases: Sequence[Case],
    sampling: SamplingParams,
    samples: int,
    heard: Callable[[int, int], None] | None = None,
) -> list[list[Answered]]:
    """`samples` answers to each case; `heard` is told (answered, submitted).

    Raises:
        see trainer.generation.Engine and trainer.chat.ChatTemplate.
    """
    prompts = [template.encode(case.messages) for case in cases]
    ending = sampling.model_copy(update={"stop_tokens": (*sampling.stop_tokens, *template.ends)})
    context = max(len(prompt) for prompt in prompts) + (sampling.max_tokens or 0)
    groups = rollouts(Engine(model, tokenizer=tokenizer, context=context), prompts, ending, samples, heard=heard)
    return [[Answered(each.text, "student", each.finish == "length") for each in group] for group in groups]


def of_tutor(
    tutor: Tutor,
    cases: Sequence[Case],
    sampling: SamplingParams,
    samples: int,
    heard: Callable[[Usage], None] | None = None,
) -> list[list[Answered]]:
    """`samples` answers to each case, fewer where the tutor refused; see `Tutor.ask` for `heard`.

    Raises:
        TutorError: it cannot be asked.
    """
    questions = [
        Question(case.messages, sampling.model_copy(update={"seed": sampling.seed * 1_000_003 + index}), samples)
        for index, case in enumerate(cases)
    ]
    found: list[list[Answered]] = [[] for _ in cases]
    for index, answers in tutor.ask(questions, heard):
        spoken = [each for each in answers if each.finish in ("stop", "length")]
        found[index] = [Answered(each.text, tutor.name, each.finish == "length") for each in spoken]
    return found
