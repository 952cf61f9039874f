"""The stage `rl`: what it learns from, what it saves, and that a killed one ends as an undisturbed one, to the bit."""

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer import pipeline
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.chat import PlainTemplate
from trainer.checkpoint import Rolling, seal
from trainer.data import Corpus, prepare
from trainer.engine import Run
from trainer.errors import Interrupted
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.recipe import Recipe
from trainer.rewards import Arithmetic, Correct, Length, Problem, ProblemError, number_of
from trainer.rl.asking import Answer, Asking
from trainer.rl.curriculum import Curriculum
from trainer.rl.experience import Experience, Objective, token_logprobs
from trainer.rl.losses import PolicyLoss
from trainer.rl.options import CurriculumOptions
from trainer.rl.stage import Rl, practise
from trainer.sources import Source
from trainer.step import take_step

LEVELS = ("add-1", "sum-1", "sum-2")
TASKS = Arithmetic(levels=LEVELS)
SMALL: dict[str, Any] = {"tasks": TASKS, "style": "plain", "batch": 16, "samples": 4, "sequence": 24, "answer": 6}
STAGE = Rl(**SMALL, tokens=8 * 16 * 24, updates=2, mini_batches=2, held_out=4, kl=0.01)

AHEAD = STAGE.model_copy(update={"ahead": 2, "rewards": (Correct(), Length(margin=1.0))})


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("arithmetic")
    rows = [TASKS.problem(LEVELS[n % 3], n) for n in range(2000)]
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": f"{p.prompt}{p.answer}\n"}) + "\n" for p in rows))
    return prepare([Source.at(folder / "lines.jsonl")], folder / "corpus", vocab_size=257, seed=1)


@pytest.fixture(scope="module")
def small() -> Architecture:
    return Architecture(
        vocab_size=257, width=32, ffn_width=64, blocks=(ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16))
    )


def _asking(corpus: Corpus, stage: Rl = STAGE) -> Asking:
    return Asking(stage, stage.sequence, corpus, PlainTemplate(corpus.tokenizer))


def _answers(corpus: Corpus, model: HybridLM, stage: Rl = STAGE, samples: int = 3) -> list[Answer]:
    asking = _asking(corpus, stage)
    problems = [asking.problem(level, 5) for level in LEVELS]
    groups = asking.answers(model, problems, samples=samples, temperature=stage.temperature, seed=3)
    return [answer for group in groups for answer in group]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_and_the_trainer_agree(lines: Corpus, small: Architecture, temperature: float) -> None:
    model = HybridLM(small, seed=4).eval()
    answers = _answers(lines, model, STAGE.model_copy(update={"temperature": temperature, "answer": 12}))
    made = Experience.of(answers, torch.zeros(len(answers)), lines.end_of_text, mask_truncated=False)
    with torch.no_grad():
        found, entropy = token_logprobs(model, made.batch, temperature)
        logarithms = (model(made.batch.inputs) / temperature).log_softmax(-1)
    wanted = logarithms.gather(-1, made.batch.targets.clamp(min=0)[..., None])[..., 0] * made.mask
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(entropy, -(logarithms.exp() * logarithms).sum(-1) * made.mask, atol=1e-5)
    assert torch.allclose(found, made.sampler, atol=1e-4)
    assert made.mask.sum() == sum(len(answer.tokens) for answer in answers)


def test_to_end_an_answer_is_learnt(lines: Corpus, small: Architecture) -> None:
    model = HybridLM(small, seed=4).eval()
    with torch.no_grad():  # it says little but the end of text
        model.model.embed_tokens.weight[lines.end_of_text] *= 200
    answers = _answers(lines, model, samples=16)
    ended = [answer for answer in answers if answer.tokens[-1] == lines.end_of_text]
    assert ended
    assert all(len(answer.tokens) == len(answer.logprobs) and not answer.truncated for answer in ended)
    made = Experience.of(ended, torch.zeros(len(ended)), lines.end_of_text, mask_truncated=False)
    assert int((made.batch.targets == lines.end_of_text).sum()) == len(ended)
    with torch.no_grad():
        assert torch.allclose(token_logprobs(model, made.batch)[0], made.sampler, atol=1e-4)


def test_truncated_answers_can_be_left_out(lines: Corpus, small: Architecture) -> None:
    answers = _answers(lines, HybridLM(small, seed=4).eval())
    assert any(answer.truncated for answer in answers)
    made = Experience.of(answers, torch.zeros(len(answers)), lines.end_of_text, mask_truncated=True)
    kept = [bool(row.any()) for row in made.mask]
    assert kept == [not answer.truncated for answer in answers]
    everything_left_out = Experience.of(
        [a for a in answers if a.truncated], torch.ones(9)[: kept.count(False)], lines.end_of_text, mask_truncated=True
    )
    model = HybridLM(small)
    logprobs, _ = token_logprobs(model, everything_left_out.batch)
    logprobs.sum().backward()  # to no effect, but it can
    assert (everything_left_out.batch.targets == IGNORED).all()


@pytest.mark.parametrize("aggregation", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_parts_of_a_mini_batch_sum_to_it(lines: Corpus, small: Architecture, aggregation: Any) -> None:
    model = HybridLM(small, seed=4)
    answers = _answers(lines, model.eval())
    advantages = torch.linspace(-1, 1, len(answers))
    made = Experience.of(answers, advantages, lines.end_of_text, mask_truncated=False)
    object.__setattr__(made, "old", made.sampler)
    steps = []
    for micro in (len(answers), 2):
        objective = Objective(made, PolicyLoss(aggregation, clip_high=5.0), 1.0, 6)
        recipe = Recipe(tokens=1, batch=len(answers), micro_batch=micro, clip=1e9)
        still = torch.optim.SGD([{"params": list(model.parameters()), "scale": 0.0}], lr=0.0)
        done = take_step(
            model, objective.begin(torch.arange(len(answers))), recipe, objective, still, 0, lambda _: True
        )
        assert done is not None
        steps.append((done["loss"], done["gradient_norm"], *objective.figures().values()))
    assert steps[0] == pytest.approx(steps[1], rel=1e-3, abs=1e-6)
    assert steps[0][1] > 0.01


def _trained(corpus: Path, architecture: Architecture, out: Path, seconds: float = 20.0) -> str:
    torch.set_num_threads(1)
    start = seal(HybridLM(architecture, seed=4), out / "start", Corpus.open(corpus).tokenizer)
    run = pipeline.run([AHEAD], architecture, corpus, out, start=start, save_seconds=seconds)
    return run[0].directory.name


def test_a_killed_stage_ends_as_an_undisturbed_one(lines: Corpus, small: Architecture, tmp_path: Path) -> None:
    calm = _trained(lines.directory, small, tmp_path / "calm")
    out, moments = tmp_path / "killed", random.Random(1)
    context = multiprocessing.get_context("fork")
    kills = 0
    for _ in range(3):
        known = set(out.glob("00-rl-*/training/*-step-*[0-9]"))
        process = context.Process(target=_trained, args=(lines.directory, small, out, 0.0))
        process.start()
        deadline = time.monotonic() + 60
        while process.is_alive() and not set(out.glob("00-rl-*/training/*-step-*[0-9]")) - known:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moments.random() * 0.05)
        assert process.pid is not None
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    assert kills >= 2
    assert _trained(lines.directory, small, out, 0.0) == calm


@pytest.mark.parametrize("stage", [STAGE, AHEAD], ids=["at once", "ahead"])
def test_stopped_it_carries_on_with_its_curriculum(
    stage: Rl, lines: Corpus, small: Architecture, tmp_path: Path
) -> None:
    def trained(run: Run) -> Curriculum:
        model = HybridLM(small, seed=4).eval()
        found = practise(model, stage, _watched(lines, stage), run)
        weights.append(model.state_dict())
        return found

    weights: list[dict[str, torch.Tensor]] = []
    told: list[dict[str, float]] = []
    calm = trained(Run(report=lambda done, total, metrics: told.append(metrics)))
    stops = iter([False, False, True])
    with pytest.raises(Interrupted):
        trained(Run(Rolling(tmp_path / "stopped"), should_stop=lambda: next(stops)))
    assert not _sampling()
    shutil.copytree(tmp_path / "stopped", tmp_path / "older")
    for state in ("stopped", "older"):
        assert trained(Run(Rolling(tmp_path / state), save_seconds=0.0)).state() == calm.state()
        assert all((weights[0][name] == weights[-1][name]).all() for name in weights[0])
    assert len(told) == STAGE.steps
    assert all("loss" not in metrics and metrics["mismatch/most"] < 1e-4 for metrics in told)
    assert {"reward", "success", "entropy", "clipped", "kl", "response_length"} <= told[-1].keys()


def _sampling() -> bool:
    return any(thread.name.startswith("rollouts") for thread in threading.enumerate())


class _Watched(Asking):
    """Says by which weights each step was sampled; takes its time, may fail at a step, and rewards something."""

    delay = 0.0
    fails: int | None = None

    def answers(self, model: HybridLM, problems: Sequence[Problem], **given: Any) -> list[list[Answer]]:
        steps = {number_of("answers", STAGE.seed, n, 0) >> 22: n for n in range(STAGE.steps)}
        if (step := steps.get(given["seed"])) is not None:
            if step == self.fails:
                raise ProblemError("no more", advice="none")
            self.policies = {**getattr(self, "policies", {}), step: _weights(model)}
        time.sleep(self.delay)  # so that sampling, or learning, is the slower
        said = super().answers(model, problems, **given)
        return [[replace(each, reward=float(sum(each.tokens) % 3)) for each in group] for group in said]


def _weights(model: HybridLM) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def _watched(lines: Corpus, stage: Rl) -> _Watched:
    return _Watched(stage, stage.sequence, lines, PlainTemplate(lines.tokenizer))


@pytest.mark.parametrize("ahead", [1, 3])
def test_answers_are_of_the_policy_as_it_was(ahead: int, lines: Corpus, small: Architecture) -> None:
    stage = STAGE.model_copy(update={"ahead": ahead, "kl": 0.0, "learning_rate": 1e-2})
    ends = []
    for sampling, learning in ((0.0, 0.0), (0.02, 0.0), (0.0, 0.02)):
        model, asking = HybridLM(small, seed=4).train(), _watched(lines, stage)
        after, told, asking.delay = [_weights(model)], [], sampling

        def report(done: int, total: int, metrics: dict[str, float], pause: float = learning) -> None:
            after.append(_weights(model))  # noqa: B023  # called within the round
            told.append(metrics)  # noqa: B023
            time.sleep(pause)

        practise(model, stage, asking, Run(report=report))
        assert sorted(asking.policies) == list(range(stage.steps))
        for step, policy in asking.policies.items():
            assert torch.equal(policy, after[max(0, step - ahead)])
        assert [each["staleness"] for each in told] == [min(step, ahead) for step in range(stage.steps)]
        assert all(each["mismatch/most"] < 1e-4 for each in told)  # of equal weights
        assert told[0]["lag"] == 0
        assert all(each["lag"] > 10 * each["mismatch"] for each in told[1:])
        assert not any(torch.equal(one, other) for one, other in pairwise(after))
        ends.append(after[-1])
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_what_fails_beside_fails_the_stage(lines: Corpus, small: Architecture, tmp_path: Path) -> None:
    for rolling in (None, Rolling(tmp_path)):
        asking = _watched(lines, AHEAD)
        asking.fails = 4
        with pytest.raises(ProblemError, match="no more"):
            practise(HybridLM(small, seed=4), AHEAD, asking, Run(rolling, save_seconds=0.0))
        assert not _sampling()
    assert (latest := Rolling(tmp_path).latest()) is not None
    assert latest.notes["step"] == 2  # the last before whose end the failing one had not begun


class _Told(Asking):
    """Answers are told: those of the n-th asking differ in worth, or never do."""

    telling: int | None = None

    def answers(self, model: HybridLM, problems: Sequence[Problem], *, samples: int, **_: Any) -> list[list[Answer]]:
        self.asked = [*getattr(self, "asked", []), len(problems)]
        differ = len(self.asked) == self.telling
        return [
            [
                Answer(each, (256, 50), (51, 10), (-1.0, -1.0), "", False, 0.0, float(differ and sample % 2))
                for sample in range(samples)
            ]
            for each in problems
        ]


@pytest.mark.parametrize(("redraws", "telling", "asked"), [(2, 2, 2), (2, 1, 1), (2, None, 3), (0, 2, 1), (1, 2, 2)])
def test_groups_that_say_nothing_are_drawn_again(
    lines: Corpus, small: Architecture, redraws: int, telling: int | None, asked: int
) -> None:
    stage = STAGE.model_copy(update={"redraws": redraws, "tokens": 1, "kl": 0.0})
    asking = _Told(stage, stage.sequence, lines, PlainTemplate(lines.tokenizer))
    asking.telling = telling
    told: list[dict[str, float]] = []
    model, before = HybridLM(small, seed=4), HybridLM(small, seed=4)
    practise(model, stage, asking, Run(report=lambda done, total, metrics: told.append(metrics)))
    assert asking.asked == [stage.batch // stage.samples] * asked
    learns = telling is not None and telling <= asked
    assert told[0]["informative"] == (1 / asked if learns else 0)
    same = all((a == b).all() for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert same != learns


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 5}, "do not divide"),
        ({"mini_batches": 3}, "mini-batches"),
        ({"answer": 24}, "no room"),
        ({"ema": 0.9}, "read a corpus"),
        ({"ahead": 1, "correction": None}, "older policy"),
        ({"ratio": "sequence"}, "GSPO"),
        ({"aggregation": "cispo"}, "largest weight"),
    ],
)
def test_options_that_do_not_go_together(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Rl(**SMALL | wrong)


OUTCOMES = st.lists(st.tuples(st.sampled_from(LEVELS), st.integers(0, 8)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(OUTCOMES, st.sampled_from(["informative", "uniform"]))
def test_a_curriculum_is_its_state(outcomes: list[tuple[str, int]], sampling: Any) -> None:
    options = CurriculumOptions(sampling=sampling)
    first = Curriculum(LEVELS, options)
    for level, right in outcomes:
        first.record(level, right, 8)
        first.step()
    again = Curriculum(LEVELS, options)
    again.restore(json.loads(json.dumps(first.state())))
    assert again.shares() == first.shares()
    assert again.choose(1, 2) == first.choose(1, 2)
    assert sum(first.shares().values()) == pytest.approx(1)
    shares = list(first.shares().values())
    reachable = len(LEVELS) if sampling == "uniform" else min(len(LEVELS), first.reached + 2)
    assert all((share > 0) == (at < reachable) for at, share in enumerate(shares))


def test_a_curriculum_climbs_and_does_not_forget() -> None:
    options = CurriculumOptions(promote=0.7, least=32, floor=0.2)
    curriculum = Curriculum(LEVELS, options)
    assert curriculum.shares()["sum-2"] == 0
    while curriculum.reached == 0:
        curriculum.record("add-1", 32, 32)
        curriculum.step()
    for _ in range(20):
        curriculum.record("add-1", 32, 32)
        curriculum.record("sum-1", 16, 32)
        curriculum.step()
    assert curriculum.reached == 1
    shares = curriculum.shares()
    assert shares["add-1"] == shares["sum-2"] == pytest.approx(options.floor * shares["sum-1"], rel=0.01)
    for _ in range(40):  # what is no longer right is practised again
        curriculum.record("add-1", 16, 32)
        curriculum.step()
    assert curriculum.shares()["add-1"] > 0.4
    drawn = [curriculum.choose(n) for n in range(2000)]
    for level, share in curriculum.shares().items():
        assert drawn.count(level) / 2000 == pytest.approx(share, abs=0.04)


def _reached(skills: dict[str, float], steps: int) -> int:
    """Of steps of eight groups of eight answers whose success is as given."""
    curriculum = Curriculum(tuple(skills), CurriculumOptions())
    for step in range(steps):
        for group in range(8):
            level = curriculum.choose(step, group)
            curriculum.record(level, 8 * skills[level], 8)
        curriculum.step()
    return curriculum.reached


def test_a_curriculum_is_not_held_up() -> None:
    mastered = {f"easy-{n}": 1.0 for n in range(5)}
    assert _reached(mastered | {"next": 0.5, "last": 0.0}, 7) == 5  # ten steps, were the hardest not drawn most
    assert _reached({"beyond": 0.0, "next": 0.5, "last": 0.0}, 40) == 1
    assert _reached({"rare": 0.05, "next": 0.0}, 40) == 0
    assert _reached({"half": 0.5, "mastered": 1.0, "last": 0.5}, 40) == 2
    assert _reached(mastered, 40) == 4


def _steps_until_learnt(skills: list[float], sampling: Any, seed: int) -> int:
    """Of a learner that groups teach as far as they differ, each harder level half as much; -40 is beyond it."""
    levels = tuple(map(str, range(len(skills))))
    curriculum, dice, skills = Curriculum(levels, CurriculumOptions(sampling=sampling)), random.Random(seed), [*skills]
    for step in range(400):
        if all(skill > 0.85 or skill < -10 for skill in skills):  # 70 % right
            return step
        gained = [0.0] * len(levels)
        for group in range(8):
            at = int(curriculum.choose(seed, step, group))
            right = sum(dice.random() < 1 / (1 + math.exp(-skills[at])) for _ in range(8))
            curriculum.record(levels[at], right, 8)
            gained = [each + right * (8 - right) / 128 * 0.5 ** (n - at) * (n >= at) for n, each in enumerate(gained)]
        skills = [skill + gain for skill, gain in zip(skills, gained, strict=True)]
        curriculum.step()
    return 400


@pytest.mark.parametrize(
    ("skills", "least_gain"),
    [([-1, -2.5, -4, -5.5, -7], 1.1), ([5, 5, 5, 5, 5, -3, -5], 1.1), ([-40, -2, -3.5, -5], 1.0)],
)
def test_a_curriculum_is_faster_than_none(skills: list[float], least_gain: float) -> None:
    ways = {way: sum(_steps_until_learnt(skills, way, seed) for seed in range(6)) for way in ("informative", "uniform")}
    assert ways["informative"] * least_gain < ways["uniform"] < 400 * 6
