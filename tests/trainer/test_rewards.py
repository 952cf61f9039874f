"""Problems and their verifiers. reasoning-gym and math-verify are extras: fakes stand for them here, as modules."""

import json
import re
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.rewards import (
    Answered,
    Arithmetic,
    Competition,
    Correct,
    Format,
    GymLevel,
    Length,
    Problem,
    ProblemError,
    ReasoningGym,
    Repetition,
    drawn,
    is_held_out,
    total,
)
from trainer.rewards.competition import MathVerify
from trainer.rewards.numbers import last_number

ALL = Arithmetic()


def _value(expression: str) -> Fraction:
    """What Python makes of it, with exact quotients."""
    return Fraction(eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression)))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ALL.names), st.integers(0, 1 << 62))
def test_arithmetic_is_what_python_makes_of_it(level: str, seed: int) -> None:
    problem = ALL.problem(level, seed)
    assert problem == ALL.problem(level, seed)
    assert Fraction(problem.answer) == _value(problem.prompt.removesuffix("="))
    assert ALL.score(problem, f"so it is {problem.answer}.") == 1
    assert ALL.score(problem, str(Fraction(problem.answer) + 1)) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", "12"),
        ("5-7 = -2", "-2"),
        ("(3)-4", "4"),
        ("12-7", "7"),
        ("it costs 1,234.50 in all.", "2469/2"),
        ("\\boxed{\\frac{-3}{4}} or 9", "-3/4"),
        ("\\boxed{1} then \\boxed{{2}}. 7", "2"),
        ("\\boxed{", None),
        ("3/4", "3/4"),
        ("3/0", "0"),
        ("\u22125", "-5"),
        ("none", None),
        ("", None),
        ("9" * 10_000, None),
        ("x2", "2"),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Fraction(number))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789,./-\\boxedfrac{}() \n\u0663", max_size=60))
def test_whatever_a_model_says_is_scored(text: str) -> None:
    assert ALL.score(Problem("1+1=", "2", "add-1", ""), text) in (0, 1)


def test_what_is_judged_is_never_trained_on() -> None:
    tasks = Arithmetic(levels=("add-1",))
    held = {drawn(tasks, "add-1", seed, held_out=True).prompt for seed in range(100)}
    assert held.isdisjoint({drawn(tasks, "add-1", seed, held_out=False).prompt for seed in range(300)})
    with pytest.raises(ProblemError, match="none could be used"):
        drawn(tasks, "add-1", 1, held_out=True, fits=lambda problem: len(problem.prompt) > 4)


def test_levels_that_are_not_there() -> None:
    with pytest.raises(ValidationError, match="no level add-9"):
        Arithmetic(levels=("add-9",))


class _Dataset:
    """As reasoning-gym's: entries by seed, partial credit for what is wrong."""

    def __init__(self, seed: int, size: int, most: int) -> None:
        self._entry = {"question": f"What is {seed} modulo {most}?", "answer": str(seed % most)}

    def __getitem__(self, index: int) -> dict[str, str]:
        return self._entry

    def score_answer(self, answer: str, entry: dict[str, str]) -> float:
        if answer == "crash":
            raise RecursionError
        return 1.0 if answer == entry["answer"] else 0.05


def test_reasoning_gym_scores_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **options: Any) -> _Dataset:
        if name != "modulo":
            raise ValueError(f"Dataset '{name}' not registered")
        return _Dataset(**options)

    fake: Any = ModuleType("reasoning_gym")
    fake.create_dataset = create
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake)
    tasks = ReasoningGym(levels=(GymLevel(name="easy", dataset="modulo", options={"most": 7}),))
    problem = tasks.problem("easy", 40)
    assert problem.answer == "5"
    given = ["5", "I think <answer> 5 </answer>", "4", "crash"]
    assert [tasks.score(problem, text) for text in given] == [1, 1, 0, 0]
    unknown = ReasoningGym(levels=(GymLevel(name="easy", dataset="nothing"),))
    with pytest.raises(ProblemError, match="does not make nothing"):
        unknown.problem("easy", 1)


def test_extras_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ProblemError) as caught:
        ReasoningGym(levels=(GymLevel(name="e", dataset="chain_sum", options={"size": 1}),)).problem("e", 0)
    assert "fulcrum[reasoning]" in caught.value.advice
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProblemError, match="not installed"):
        MathVerify()


def test_a_comparison_that_hangs_or_dies_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module found on the path by the process, as the real one is."""
    (tmp_path / "math_verify.py").write_text(
        "import os, time\n"
        "def parse(text, parsing_timeout):\n"
        "    return text.strip('$')\n"
        "def verify(gold, text, timeout_seconds):\n"
        "    {'hang': lambda: time.sleep(60), 'die': lambda: os._exit(1), 'raise': lambda: 1 / 0}.get(text, int)()\n"
        "    return gold == text\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    judge = MathVerify(seconds=0.5)
    begun = time.monotonic()
    found = [judge.agrees("x", text) for text in ("x", "y", "raise", "x", "hang", "x", "die", "x")]
    judge.close()
    assert found == [True, False, False, True, False, True, False, True]
    assert time.monotonic() - begun < 30


def test_competition_problems_are_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    easy = tmp_path / "easy.jsonl"
    rows = [{"problem": f"What is {n}?", "answer": str(n), "source": "us"} for n in range(40)]
    easy.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    tasks = Competition(files=(easy,))
    problems = {drawn(tasks, "easy", seed, held_out=False) for seed in range(200)}
    assert 20 < len(problems) < 40
    assert not any(map(is_held_out, problems))
    asked = SimpleNamespace(agrees=lambda answer, text: answer == text)
    monkeypatch.setattr("trainer.rewards.competition._judge", lambda: asked)
    assert [tasks.score(Problem("", "3", "easy", ""), text) for text in ("3", "4")] == [1, 0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b'{"problem": "p"}', "no text `answer`"),
        (b'{"problem": "p", "answer": ["3"]}', "`answer` is list"),
        (b"[1]", "no text"),
        (b"{", "no JSON"),
        (b'{"problem": "\xff", "answer": "1"}', "no JSON in UTF-8"),
        (b'{"problem": "' + b"x" * 10_000_000 + b'", "answer": "1"}', "10000030 bytes"),
    ],
    ids=["missing", "several", "list", "cut", "unicode", "long"],
)
def test_poisoned_rows_are_refused_by_their_line(row: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"problem": "a", "answer": "b"}\n' + row)
    with pytest.raises(ProblemError, match=f"line 2.*{said}"):
        Competition(files=(file,)).identity()


def _answered(text: str, tokens: tuple[int, ...] = (), correct: float = 0.0) -> Answered:
    return Answered(text, tokens, correct, most=8)


def test_rewards_add_up() -> None:
    rewards = (Correct(), Format(form="number", weight=0.5), Length(margin=0.5, weight=2), Repetition(n=2, weight=1))
    assert total(rewards, _answered("12", (1, 2), correct=1)) == 1.5
    assert total(rewards, _answered("12 or so", (1, 2, 1, 2, 3, 1))) == pytest.approx(2 * -0.5 + (4 / 5 - 1))
    assert Length(margin=0.5).value(_answered("", (0,) * 8)) == -1


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ("boxed", "so \\boxed{\\frac{1}{2}}.", "\\boxed{1} or \\boxed{2}"),
        ("tags", "<think>a < b</think>\n<answer>1</answer>", "<think>a</think><think>b</think><answer>1</answer>"),
        ("number", " -3/4\n", "it is 3"),
    ],
)
def test_forms(form: Any, right: str, wrong: str) -> None:
    assert [Format(form=form).value(_answered(text)) for text in (right, wrong)] == [1, 0]
    begun = time.monotonic()
    for bad in ("\\boxed{" * 5_000, "\\boxed{" + "{}" * 5_000, "<think>" * 5_000, "1" * 50_000 + "."):
        assert Format(form=form).value(_answered(bad)) == 0
    assert time.monotonic() - begun < 2
