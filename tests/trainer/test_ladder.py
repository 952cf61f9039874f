"""Programs as answers, problems of files with tests, and one curriculum over tasks of several kinds."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from server.stage_options import check
from trainer.rewards import (
    AnyTasks,
    Arithmetic,
    Code,
    Competition,
    GymLevel,
    Ladder,
    Problem,
    ProblemError,
    Programs,
    ReasoningGym,
    drawn,
    is_held_out,
)

RIGHT = {
    "write-constant": "def f(): return {}",
    "write-sum": "f = lambda x: {}",
    "write-text": "No:\n```\n1 / 0\n```\nbut\n```python\ndef f(s):\n    return s[::-1] * {} + '{}'\n```\nis.",
}


def _numbers(problem: Problem) -> list[str]:
    words = problem.prompt.strip().rstrip(".").partition("returns ")[2]
    if problem.level != "write-text":
        return [words]
    return [words.split(" times")[0].split()[-1], words.split()[-1]]


def test_programs_are_run_with_their_tests() -> None:
    tasks = Programs(seconds=2)
    asked, wanted = [], []
    for level, form in RIGHT.items():
        problem = tasks.problem(level, 5)
        assert problem == tasks.problem(level, 5)
        right = form.format(*_numbers(problem))
        asked += [(problem, right), (problem, right.replace("return", "return 1 or").replace("x:", "x: 1 or"))]
        wanted += [1.0, 0.0]
    assert tasks.scores(asked) == wanted


def test_every_level_has_problems_to_train_on_and_to_judge_by() -> None:
    tasks = Programs()
    for level in tasks.names:
        prompts = {drawn(tasks, level, seed, held_out=False).prompt for seed in range(30)}
        assert len(prompts) > 20
        assert is_held_out(drawn(tasks, level, 1, held_out=True))
        for line in tasks.problem(level, 3).answer.splitlines():
            compile(line, "test", "exec")


def test_answers_that_attack_score_nothing_and_others_beside_them_are_right() -> None:
    tasks = Programs(levels=("write-sum",), seconds=1, memory_mb=128)
    problem = Problem("", "assert f(1) == 2", "write-sum", "")
    attacks = [
        "import sys; sys.exit(0)",
        "while True: pass",
        "x = [0] * (1 << 40)",
        "import sys\nprint(sys._getframe(1).f_locals)\ndef f(x): raise SystemExit",
        "def f(x): return open('/etc/hostname').read()",
        "import os\ndef f(x): return os.fork() or 2 if False else os.fork()",
        "class Yes(int):\n    def __eq__(self, other): return True\ndef f(x): return Yes(7)",
        "\0",
        "\ud800",
        "#" * (1 << 17),
        "def f(x): return f(x)",
        "",
    ]
    right = "def f(x): return x + 1"
    answers = [right, *attacks, right]
    found = tasks.scores([(problem, text) for text in answers])
    assert found == [1.0, *[0.0] * len(attacks), 1.0]


def test_code_problems_are_of_files(tmp_path: Path) -> None:
    easy = tmp_path / "easy.jsonl"
    easy.write_text(json.dumps({"problem": "Double x by f(x).", "tests": "assert f(2) == 4"}) + "\n")
    tasks = Code(files=(easy,))
    problem = tasks.problem("easy", 1)
    assert tasks.scores([(problem, "def f(x): return x * 2"), (problem, "def f(x): return x")]) == [1, 0]
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"problem": "Double x by f(x).", "answer": "4"}) + "\n")
    with pytest.raises(ProblemError, match="line 1 has no text `problem` or no text `tests`"):
        Code(files=(easy, bad)).identity()


def test_a_ladder_goes_over_kinds_and_finds_their_verifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = tmp_path / "hard.jsonl"
    hard.write_text(json.dumps({"problem": "What is 6 times 7?", "answer": "42"}) + "\n")

    class Agrees:
        def agrees(self, answer: str, text: str) -> bool:
            return answer == text

    monkeypatch.setattr("trainer.rewards.competition._judge", Agrees)
    ladder = Ladder(
        parts=(Arithmetic(levels=("add-1", "sum-2")), Programs(levels=("write-sum",)), Competition(files=(hard,)))
    )
    assert ladder.names == ("add-1", "sum-2", "write-sum", "hard")
    assert TypeAdapter[Any](AnyTasks).validate_json(ladder.model_dump_json()) == ladder
    sums, writes, competes = (ladder.problem(level, 7) for level in ("sum-2", "write-sum", "hard"))
    right = RIGHT["write-sum"].format(*_numbers(writes))
    asked = [(competes, "42"), (writes, right), (sums, sums.answer), (competes, "41"), (writes, "x"), (sums, "x")]
    assert ladder.scores(asked) == [1, 1, 1, 0, 0, 0]
    assert [ladder.score(*pair) for pair in asked] == [1, 1, 1, 0, 0, 0]
    assert len(ladder.identity()) > 64
    assert Ladder(parts=(Arithmetic(),)).identity() == ""


def test_levels_of_one_name_are_refused() -> None:
    gym = ReasoningGym(levels=(GymLevel(name="add-1", dataset="chain_sum"),))
    with pytest.raises(ValidationError, match="two parts have a level add-1"):
        Ladder(parts=(Arithmetic(), gym))


def test_over_rest_a_ladder_names_no_files() -> None:
    parts: list[Any] = [{"kind": "arithmetic"}, {"kind": "programs"}]
    check("rl", {"tasks": {"kind": "ladder", "parts": parts}})
    for wrong in ({"kind": "code", "files": ["/etc/passwd"]}, {"kind": "ladder", "parts": [{"kind": "arithmetic"}]}):
        with pytest.raises(ValidationError):
            check("rl", {"tasks": {"kind": "ladder", "parts": [*parts, wrong]}})
    with pytest.raises(ValidationError):
        check("rl", {"tasks": {"kind": "code", "files": ["/etc/passwd"]}})
