"""A model is asked problems: their prompts as tokens, its answers with what the sampler thought of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.chat import ChatError, ChatTemplate, Message
from trainer.data import Corpus
from trainer.generation import Completion, Engine, SamplingParams, rollouts
from trainer.model import HybridLM
from trainer.rewards import Answered, Problem, drawn, number_of, total
from trainer.rl.options import RlOptions

_SLOTS, _CACHE_BYTES = 64, 64 << 20


@dataclass(frozen=True)
class Answer:
    """An answer to a problem. `tokens` holds the token that ended it, if one did; `logprobs` are the sampler's."""

    problem: Problem
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    truncated: bool
    correct: float
    reward: float


class Asking:
    """How problems are put to a model, and answers judged."""

    def __init__(self, options: RlOptions, context: int, corpus: Corpus, template: ChatTemplate) -> None:
        """`context` is how many tokens prompt and answer may have together."""
        self._options, self._context = options, context
        self._tokenizer, self._end = corpus.tokenizer, corpus.end_of_text
        self._template = template

    def problem(self, level: str, seed: int, *, held_out: bool = False) -> Problem:
        """A problem of a level whose prompt can be written and leaves room for an answer; others are passed over.

        Raises:
            ProblemError: there seems to be none.
        """
        most = self._context - self._options.answer

        def fits(problem: Problem) -> bool:
            try:
                return len(self.prompt(problem)) <= most
            except ChatError:  # a row of a file that speaks in another's name
                return False

        return drawn(self._options.tasks, level, seed, held_out=held_out, fits=fits)

    def prompt(self, problem: Problem) -> list[int]:
        """Its tokens.

        Raises:
            ChatError: the template does not take its text.
        """
        if self._options.style == "chat":
            return self._template.encode([Message(role="user", content=problem.prompt)])
        return [self._end, *self._tokenizer.encode(problem.prompt, add_special_tokens=False).ids]

    def answers(
        self, model: HybridLM, problems: Sequence[Problem], *, samples: int, temperature: float, seed: int
    ) -> list[list[Answer]]:
        """`samples` answers to each, a pure function of the weights, the problems and the seed."""
        if not problems:
            return []
        prompts = [self.prompt(problem) for problem in problems]
        engine = Engine(model, tokenizer=self._tokenizer, context=self._context, slots=_SLOTS, cache_bytes=_CACHE_BYTES)
        sampling = self._sampling.model_copy(update={"temperature": temperature, "seed": seed})
        said = rollouts(engine, prompts, sampling, samples)
        asked = [(problem, each.text) for problem, group in zip(problems, said, strict=True) for each in group]
        scores = iter(self._options.tasks.scores(asked))
        return [
            [self._judged(problem, tuple(prompt), completion, next(scores)) for completion in group]
            for problem, prompt, group in zip(problems, prompts, said, strict=True)
        ]

    def success(self, model: HybridLM, levels: Sequence[str], count: int, seed: int) -> dict[str, float]:
        """`success/LEVEL` of `count` held-out problems each, answered greedily, and `success`, their mean."""
        problems = [
            self.problem(level, number_of("judged", seed, level, n), held_out=True)
            for level in levels
            for n in range(count)
        ]
        said = self.answers(model, problems, samples=1, temperature=0.0, seed=0)
        right = [group[0].correct for group in said]
        found = {f"success/{level}": sum(right[at * count :][:count]) / count for at, level in enumerate(levels)}
        return {"success": sum(found.values()) / len(found)} | found

    @cached_property
    def _sampling(self) -> SamplingParams:
        if self._options.style == "plain":
            return SamplingParams(max_tokens=self._options.answer, stop=("\n",), stop_tokens=(self._end,))
        return SamplingParams(max_tokens=self._options.answer, stop_tokens=self._template.ends)

    def _judged(self, problem: Problem, prompt: tuple[int, ...], said: Completion, correct: float) -> Answer:
        tokens, logprobs = tuple(said.tokens), tuple(said.sampler_logprobs)
        if said.ended_by is not None:  # to end is a choice as any other, and is learnt as such
            tokens, logprobs = (*tokens, said.ended_by[0]), (*logprobs, said.ended_by[1])
        reward = total(self._options.rewards, Answered(said.text, tuple(said.tokens), correct, self._options.answer))
        return Answer(problem, prompt, tokens, logprobs, said.text, said.finish == "length", correct, reward)
