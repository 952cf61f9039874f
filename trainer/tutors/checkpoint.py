"""A tutor that is one of our own models, in this process."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from trainer.chat import ChatError, ChatTemplate, template_of
from trainer.checkpoint import Checkpoint
from trainer.errors import ContextOverflow
from trainer.generation import Completion, Engine, Handle
from trainer.tokenizer import require_fit
from trainer.tutors.port import Answer, Finish, Prices, Question, Usage


class OurTutor:
    """See `Tutor`: the generation engine answers, as it does behind `fulcrum chat serve`."""

    def __init__(
        self, name: str, engine: Engine, tokenizer: Tokenizer, template: ChatTemplate, prices: Prices | None = None
    ) -> None:
        self.name = name
        self.usage = Usage(prices)
        self._engine, self._tokenizer, self._template = engine, tokenizer, template

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        context: int = 4096,
        slots: int = 16,
        prices: Prices | None = None,
        device: torch.device | None = None,
    ) -> "OurTutor":
        """The model of a checkpoint, on `device`; on the CPU without one.

        Raises:
            CheckpointError, TokenizerError, ChatError: it is damaged, or does not fit together.
        """
        checkpoint = Checkpoint(folder)
        model, tokenizer = checkpoint.model().to(device), checkpoint.tokenizer
        require_fit(tokenizer, model.architecture.vocab_size)
        engine = Engine(model, tokenizer=tokenizer, context=context, slots=slots)
        return cls(folder.resolve().name, engine, tokenizer, template_of(checkpoint.directory, tokenizer), prices)

    def ask(
        self, questions: Sequence[Question], heard: Callable[[Usage], None] | None = None
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Tutor`; in the order of the questions. Twice as many answers as the engine has slots are under way."""
        under_way: deque[tuple[int, list[Handle] | list[Answer]]] = deque()
        left = iter(enumerate(questions))
        try:
            while True:
                while sum(len(group) for _, group in under_way) < 2 * self._engine.slots:
                    following = next(left, None)
                    if following is None:
                        break
                    under_way.append((following[0], self._begin(following[1])))
                if not under_way:
                    return
                index, group = under_way[0]
                answers = [each if isinstance(each, Answer) else _answer(each.result()) for each in group]
                under_way.popleft()
                for answer in answers:
                    self.usage.count(answer)
                    if heard:
                        heard(self.usage)
                yield index, answers
        finally:
            for _, group in under_way:
                for each in group:
                    if isinstance(each, Handle):
                        each.cancel()

    def _begin(self, question: Question) -> list[Handle] | list[Answer]:
        sampling = question.sampling
        ends = {"stop_tokens": (*self._template.ends, *sampling.stop_tokens)}
        try:
            prompt = self._template.encode(question.messages)
            return self._engine.submit_group(prompt, sampling.model_copy(update=ends), question.samples)
        except (ChatError, ContextOverflow) as wrong:
            return [Answer("", 0, "refused", why=wrong.message)] * question.samples


def _answer(completion: Completion) -> Answer:
    finish: Finish = "length" if completion.finish == "length" else "stop"
    return Answer(completion.text, len(completion.tokens), finish, completion.prompt_tokens)
