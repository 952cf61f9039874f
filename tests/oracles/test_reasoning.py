"""math-verify and reasoning-gym themselves judge answers, through our tasks."""

import json
from pathlib import Path

import pytest

from trainer.rewards import Competition, GymLevel, Problem, ReasoningGym


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        ("1/2", "So it is $0.5$", 1),
        (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", 1),
        ("x^2+1", "$1+x^2$", 1),
        (r"\sqrt{8}", r"$2\sqrt{2}$", 1),
        ("(1,2)", "$(1, 2)$", 1),
        (r"\{1,2\}", r"$\{2,1\}$", 1),
        ("5", "It is 6.", 0),
        ("5", "", 0),
        ("2", "$2$ or $3$? I say $3$", 0),
        ("10", r"\boxed{" * 2000, 0),
    ],
)
def test_competition_answers_are_right_where_math_verify_says_so(
    tmp_path: Path, answer: str, said: str, right: int
) -> None:
    file = tmp_path / "amc.jsonl"
    file.write_text(json.dumps({"problem": "?", "answer": answer}))
    assert Competition(files=(file,)).score(Problem("?", answer, "amc", ""), said) == right


@pytest.mark.parametrize("dataset", ["chain_sum", "gsm_symbolic", "countdown", "simple_equations"])
def test_problems_of_reasoning_gym_are_solved_by_their_answers_alone(dataset: str) -> None:
    tasks = ReasoningGym(levels=(GymLevel(name="only", dataset=dataset),))
    for seed in (1, 2**40):
        problem = tasks.problem("only", seed)
        assert problem == tasks.problem("only", seed)
        assert tasks.score(problem, f"I think <answer>{problem.answer}</answer>") == 1
        assert [tasks.score(problem, text) for text in ("", "987654321", "<answer>")] == [0, 0, 0]
