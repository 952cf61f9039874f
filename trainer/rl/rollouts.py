"""The answers that a step learns from: drawn by the curriculum, said by a policy, ahead of the step if so wished.

With `ahead` of k, step n learns from answers of the policy as it was after max(0, n - k) steps, and of the curriculum
at that moment; they are sampled in a thread beside the steps between. So what a step learns from is a function of seed
and step, whichever of the two is faster. Which older policy said them is corrected where the loss is (decoupled PPO,
arXiv 2110.00641, eq. 8, as AReaL has it, 2505.24298, section 5).
"""

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trainer.model import HybridLM
from trainer.rewards import Problem, number_of
from trainer.rl.asking import Answer, Asking
from trainer.rl.curriculum import Curriculum
from trainer.rl.experience import Experience, token_logprobs
from trainer.rl.options import RlOptions
from trainer.step import device_of, moved


@dataclass(frozen=True)
class Rollouts:
    """What was sampled for a step. `policy` is after how many steps the weights were that said it."""

    policy: int
    groups: list[list[Answer]]
    logprobs: Tensor
    """Of the targets of these answers by the same weights as the trainer computes them, [N, T]."""
    outcomes: dict[str, tuple[float, int]]
    """(right, answers) of every level, of all that was drawn."""
    figures: dict[str, float]
    """Of all that was drawn."""

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        groups = [[asdict(answer) for answer in group] for group in self.groups]
        return vars(self) | {"groups": groups, "logprobs": self.logprobs.tolist()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """What `state` gave, to the bit."""
        groups = [[_answer(answer) for answer in group] for group in state["groups"]]
        outcomes = {level: (right, tried) for level, (right, tried) in state["outcomes"].items()}
        given = {"groups": groups, "logprobs": torch.tensor(state["logprobs"]), "outcomes": outcomes}
        return cls(**dict(state) | given)


class Ahead:
    """Samples what the next steps learn from: in a thread, or with `ahead` of 0 when a step asks.

    A context; leaving it leaves no thread behind.
    """

    def __init__(self, stage: RlOptions, asking: Asking, *, seed: int, steps: int, groups: int, rows: int) -> None:
        """`groups` are those of a step, and `rows` the answers whose log-probabilities are computed at once."""
        self._stage, self._asking, self._seed, self._steps = stage, asking, seed, steps
        self._groups, self._rows = groups, rows
        self._pending: dict[int, Future[Rollouts]] = {}
        self._left = False
        # How many threads torch computes with is known thread by thread, and bits depend on it.
        self._thread = ThreadPoolExecutor(1, "rollouts", torch.set_num_threads, (torch.get_num_threads(),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._thread.shutdown(cancel_futures=True)

    def take(self, step: int, model: HybridLM, curriculum: Curriculum) -> Rollouts:
        """For the next step, `step`; those after it are begun with these weights, as far as they may be.

        Raises:
            ProblemError: problems cannot be had.
            Exception: whatever else sampling raised.
        """
        if not self._stage.ahead:
            return self._sampled(model, curriculum, step, step)
        wanted = range(step, min(step + self._stage.ahead + 1, self._steps))
        if missing := [each for each in wanted if each not in self._pending]:
            policy, levels = copy.deepcopy(model).requires_grad_(False).eval(), copy.deepcopy(curriculum)
            for each in missing:
                self._pending[each] = self._thread.submit(self._sampled, policy, levels, each, step)
        return self._pending.pop(step).result()

    def state(self) -> dict[str, Any]:
        """What is sampled or being sampled, by step, as JSON; waits for it.

        Raises:
            see `take`.
        """
        return {str(step): future.result().state() for step, future in self._pending.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Have what `state` gave."""
        for step, given in state.items():
            self._pending[int(step)] = future = Future[Rollouts]()
            future.set_result(Rollouts.restored(given))

    def _sampled(self, model: HybridLM, curriculum: Curriculum, step: int, policy: int) -> Rollouts:
        """As many groups as a step has, those first that say something; the figures are of all that were drawn."""
        telling: list[list[Answer]] = []
        mute: list[list[Answer]] = []
        for attempt in range(self._stage.redraws + 1):
            if self._left:
                raise CancelledError  # nobody waits for it any more
            for group in self._asked(model, curriculum, (self._seed, step, attempt), self._groups - len(telling)):
                (telling if len({answer.reward for answer in group}) > 1 else mute).append(group)
            if len(telling) == self._groups:
                break
        answers = [answer for group in (*telling, *mute) for answer in group]
        of_levels = {level: [a.correct for a in answers if a.problem.level == level] for level in curriculum.levels}
        figures = {
            "success": mean([answer.correct for answer in answers]),
            "reward": mean([answer.reward for answer in answers]),
            "informative": len(telling) / (len(telling) + len(mute)),
        }
        figures |= {f"success/{level}": mean(right) for level, right in of_levels.items() if right}
        outcomes = {level: (sum(right), len(right)) for level, right in of_levels.items() if right}
        groups = (telling + mute)[: self._groups]
        kept = [answer for group in groups for answer in group]
        made = Experience.of(kept, torch.zeros(len(kept)), kept[0].prompt[0], mask_truncated=self._stage.mask_truncated)
        return Rollouts(policy, groups, self.logprobs(model, made), outcomes, figures)

    def _asked(self, model: HybridLM, curriculum: Curriculum, key: tuple[int, ...], count: int) -> list[list[Answer]]:
        levels = [curriculum.choose(*key, n) for n in range(count)]
        problems = [self._asking.problem(level, number_of("problem", *key, n)) for n, level in enumerate(levels)]
        return self._asking.answers(
            model,
            problems,
            samples=self._stage.samples,
            temperature=self._stage.temperature,
            seed=number_of("answers", *key) >> 22,  # which is multiplied by a million
        )

    @torch.no_grad()
    def logprobs(self, model: HybridLM, experience: Experience) -> Tensor:
        """Of the targets [N, T] under the weights as they are."""
        rows, device = torch.arange(len(experience.mask)).split(self._rows), device_of(model)
        parts = [token_logprobs(model, moved(experience.rows(at), device), self._stage.temperature)[0] for at in rows]
        return torch.cat([part.cpu() for part in parts])


def mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return sum(values) / len(values)


def _answer(state: Mapping[str, Any]) -> Answer:
    lists = {name: tuple(state[name]) for name in ("prompt", "tokens", "logprobs")}
    return Answer(**dict(state) | lists | {"problem": Problem(**state["problem"])})
