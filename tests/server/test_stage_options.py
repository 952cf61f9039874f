"""What may be asked of a stage, and by which names users call a teacher; a path of theirs is never the server's."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue, ValidationError
from service_examples import assert_problem, candidate, report, spec
from starlette.testclient import TestClient

from server.api.views import CorpusFile, CorpusSpec, PhoneRegistration
from server.claims import ClaimedRun
from server.cli.stages import parse_fields
from server.errors import NotFound, TeacherLost, TeacherNotReady, TeacherUnfit
from server.ledger import RunLedger, SearchLedger
from server.runs import RunSpec, StageRecord, StageRequest, WorkState
from server.services import Services
from server.stage_options import STAGES
from server.teachers import folder
from server.worker.stages import STAGE_KINDS, StageRefused, stage_of
from trainer.extend import Extend
from trainer.merge.stage import Merge
from trainer.preference.stage import Preference
from trainer.pretrain import Teacher
from trainer.rewards import Arithmetic
from trainer.synthesis import read_recipe
from trainer.synthesis.stage import Synthesise

USUAL = spec("c").quantisation


def _recipe(**changed: JsonValue) -> dict[str, JsonValue]:
    asked: list[JsonValue] = [{"role": "user", "content": "{topic}"}]
    usual: dict[str, JsonValue] = {
        "name": "own",
        "kind": "dialogue",
        "seeds": {"kind": "topics", "topics": ["tea"]},
        "steps": [{"name": "answer", "messages": asked}],
        "conversation": [*asked, {"role": "assistant", "content": "{answer}"}],
    }
    return usual | changed


@pytest.mark.parametrize("kind", STAGES)
def test_every_option_of_a_stage_can_be_asked_for_and_none_is_a_path(kind: str) -> None:
    stage = STAGE_KINDS[kind]
    assert STAGES[kind].model_fields.keys() | {"kind", "tokens"} == stage.model_fields.keys() | {"tokens"}
    taken = {name: str(field.annotation) for name, field in STAGES[kind].model_fields.items()}
    assert not [name for name, kind_ in taken.items() if "pathlib" in kind_]


@pytest.mark.parametrize(
    ("name", "options", "place"),
    [
        ("qat", {"scales": "guessed"}, "options/scales"),
        ("qat", {"warmup": 2}, "options/warmup"),
        ("teacher", {"widen": 0}, "options/widen"),
        ("extend", {"curriculum": [{"length": 128, "share": 2}]}, "options/curriculum/0/share"),
        ("extend", {"theta": 1e6}, "options"),
        ("extend", {"curriculum": [{"length": 65536, "share": 1}]}, "options"),
        ("extend", {"sequence": 256, "curriculum": [{"length": 96, "share": 1}]}, "options"),
        ("teacher", {"temperature": 1}, "options/temperature"),
        ("pretrain", {"teacher": "/etc"}, "options/teacher"),
        ("preference", {"prompts": "/etc/passwd", "judge": [{"rule": "exact"}]}, "options/prompts"),
        ("preference", {"prompts": "ab" * 32, "judge": [{"rule": "format", "pattern": "(a+)+b"}]}, "options/judge"),
        ("preference", {"pairs": "ab" * 32, "examiner_model": {"folder": "/etc"}}, "options/examiner_model"),
        ("preference", {"tasks": {"kind": "competition", "files": ["/etc/passwd"]}}, "options/tasks"),
        ("preference", {"prompts": "ab" * 32, "tutor": {"folder": "/etc"}}, "options/tutor"),
        ("pretrain", {"teacher": "run:a/../b"}, "options/teacher"),
        ("pretrain", {"cached": True, "beta": 0.5}, "options"),
        ("pretrain", {"tokens": 5}, ""),
        ("sft", {"of": "judge"}, "options/of"),
        ("synthesise", {}, "options/recipe"),
        ("synthesise", {"recipe": "/etc/passwd"}, "options/recipe"),
        ("synthesise", {"recipe": "reading"}, "options/recipe"),  # of documents
        ("synthesise", {"recipe": _recipe(seeds={"kind": "documents", "sources": []})}, "options/recipe/seeds"),
        (
            "synthesise",
            {"recipe": _recipe(seeds={"kind": "problems", "count": 1, "tasks": {"kind": "competition", "levels": []}})},
            "options/recipe/seeds/problems/tasks",
        ),
        (
            "synthesise",
            {"recipe": _recipe(filters=[{"kind": "format", "of": "answer", "must": "(a+)+b"}])},
            "options/recipe/filters/0",
        ),
        ("synthesise", {"recipe": "arithmetic", "tutor": {"url": "http://a/v1", "model": "m"}}, "options/tutor"),
        ("merge", {"specialists": {"a": ["a" * 64]}}, "options/specialists"),
        ("merge", {"specialists": {"a": ["a" * 64], "b": ["/etc/passwd"]}}, "options/specialists/b/0"),
        ("merge", {"specialists": {"a": "a" * 64, "b": []}}, "options/specialists"),
        ("synthesise", {"recipe": "arithmetic", "judge": {"folder": "/etc"}}, "options/judge"),
        ("sft", {"data": "/etc/passwd"}, "options/data/0"),
    ],
)
def test_mistakes_are_placed(name: str, options: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        StageRequest.model_validate({"name": name, "options": options})
    assert ["/".join(map(str, mistake["loc"])) for mistake in caught.value.errors()] == [place]


def test_options_are_checked_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import server.runs, sys; sys.exit('torch' in sys.modules)"], check=False
    )
    assert done.returncode == 0


def test_files_of_a_stage_are_artifacts() -> None:
    options: dict[str, JsonValue] = {"prompts": "ab" * 32, "judge": [{"rule": "exact"}]}
    request = StageRequest(name="preference", options=options)
    assert request.artifacts == {"prompts": ("ab" * 32,)}
    stage = stage_of(request, USUAL, files={"prompts": [Path("kept") / ("ab" * 32)]})
    assert isinstance(stage, Preference)
    assert stage.prompts == Path("kept") / ("ab" * 32)


def test_files_of_specialists_are_artifacts() -> None:
    one, two = "a" * 64, "b" * 64
    request = StageRequest(name="merge", options={"specialists": {"sums": one, "words": [one, two]}})
    assert request.artifacts == {"specialists/sums": (one,), "specialists/words": (one, two)}
    files = {option: [Path("/kept") / sha256 for sha256 in named] for option, named in request.artifacts.items()}
    stage = stage_of(request, USUAL, files=files)
    assert isinstance(stage, Merge)
    assert stage.specialists == {"sums": (Path("/kept") / one,), "words": (Path("/kept") / one, Path("/kept") / two)}


def test_recipes_reach_the_stage_inline_and_by_name() -> None:
    inline = StageRequest(name="synthesise", options={"recipe": _recipe(), "tutor": "self", "limit": 3})
    stage = stage_of(inline, USUAL)
    assert isinstance(stage, Synthesise)
    assert (stage.recipe.name, stage.tutor, stage.limit) == ("own", "self", 3)
    named = stage_of(StageRequest(name="synthesise", options={"recipe": "arithmetic"}), USUAL)
    assert isinstance(named, Synthesise)
    assert (named.recipe, named.tutor) == (read_recipe("arithmetic"), "teacher")


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([{"name": "qat"}], "stage 1, qat, needs a model"),
        ([{"name": "pretrain"}, {"name": "sft"}], "stage 2, sft, needs conversations"),
        ([{"name": "pretrain"}, {"name": "sft", "options": {"of": "teacher", "data": ["a" * 64]}}], "needs a teacher"),
        ([{"name": "pretrain"}, {"name": "synthesise", "options": {"recipe": "dialogue"}}], "needs a teacher"),
    ],
)
def test_stages_that_do_not_go_together_are_problems(
    client: TestClient, search: str, stages: list[dict[str, Any]], words: str
) -> None:
    body = {"search": search, "candidate": 4, "stages": stages}
    problem = assert_problem(client.post("/v1/runs", json=body), 422, "stages-apart")
    assert words in problem["detail"]


def test_preferences_over_problems_need_neither_files_nor_models_of_others() -> None:
    tasks: dict[str, JsonValue] = {"kind": "arithmetic"}
    options: dict[str, JsonValue] = {"tasks": tasks, "judge": [{"rule": "correct"}], "tutor": "teacher"}
    request = StageRequest(name="preference", options=options)
    assert (request.artifacts, request.teacher) == ({}, None)
    stage = stage_of(request, USUAL)
    assert isinstance(stage, Preference)
    assert (stage.tasks, stage.tutor) == (Arithmetic(), "teacher")


def test_mistakes_in_options_are_problems(client: TestClient) -> None:
    body = {"search": "s", "stages": [{"name": "teacher"}, {"name": "pretrain", "options": {"teacher": "/etc"}}]}
    problem = assert_problem(client.post("/v1/runs", json=body), 422, "invalid-request")
    assert [mistake["pointer"] for mistake in problem["errors"]] == ["/stages/1/options/teacher"]
    assert "run:ID" in problem["detail"]


def test_options_reach_the_stage() -> None:
    asked: dict[str, JsonValue] = {"schedule": "cosine", "temperature": 3.0, "teacher": "run:one"}
    stage = stage_of(StageRequest(name="pretrain", tokens=7, options=asked), USUAL, Path("/there"))
    chats = StageRequest(name="sft", options={"data": ["a" * 64], "epochs": 2})
    assert chats.artifacts == {"data": ("a" * 64,)}
    assert stage_of(chats, USUAL, files={"data": [Path("/kept")]}).model_dump(include={"data", "epochs"}) == {
        "data": (Path("/kept"),),
        "epochs": 2,
    }
    assert stage.model_dump(include={"schedule", "temperature", "teacher", "tokens"}) == {
        "schedule": "cosine",
        "temperature": 3.0,
        "teacher": Path("/there"),
        "tokens": 7,
    }


def test_a_context_is_stretched_from_the_one_that_was_trained() -> None:
    trained = stage_of(StageRequest(name="pretrain", options={"sequence": 256}), USUAL)
    asked = StageRequest(name="extend", tokens=4096, options={"sequence": 2048, "batch": 2})
    stage = stage_of(asked, USUAL, before=[trained, Extend(sequence=1024)])
    assert stage == Extend(original=256, sequence=2048, batch=2, tokens=4096)
    chosen = StageRequest(name="extend", options={"original": 128, "sequence": 2048})
    assert stage_of(chosen, USUAL, before=[trained]) == Extend(original=128, sequence=2048)


def test_options_that_only_the_trainer_knows_apart_are_refused_in_its_words() -> None:
    with pytest.raises(StageRefused, match="groups of 4 answers"):
        stage_of(StageRequest(name="rl", options={"batch": 10, "samples": 4}), USUAL)


def test_held_out_text_is_scored_now_and_then_unless_asked_otherwise() -> None:
    def every(tokens: int, **options: JsonValue) -> int | None:
        stage = stage_of(StageRequest(name="teacher", tokens=tokens, options=options), USUAL)
        assert isinstance(stage, Teacher)
        return stage.evaluate_every

    assert every(10**5) == 64
    assert every(10**9) == 19_532  # fifty in all
    assert every(10**9, evaluate_every=7) == 7
    assert every(10**9, evaluate_every=None) is None


@pytest.fixture
def search(services: Services) -> str:
    services.fleet.report("bench", report("one"))
    services.fleet.register(PhoneRegistration(serial="one"))
    file = CorpusFile(sha256=services.artifacts.put(b"text"), format="text")
    corpus, _ = services.corpora.register(CorpusSpec(name="c", files=(file,)))
    made = services.searches.submit(spec(corpus.id)).id
    services.claims.claim_search("worker")
    ledger = SearchLedger(services.database, made, "worker")
    ledger.remember(candidate(4, 1.0))
    other = candidate(5, 1.0)
    ledger.remember(
        other.model_copy(update={"architecture": other.architecture.model_copy(update={"vocab_size": 512})})
    )
    return made


def claimed(services: Services) -> ClaimedRun:
    found = services.claims.claim_run("worker")
    assert found is not None
    return found


def ask(services: Services, search: str, teacher: str, number: int = 4) -> RunSpec:
    stage = StageRequest(name="pretrain", options={"teacher": teacher})
    asked = RunSpec(search=search, candidate=number, stages=(stage,))
    services.runbook.submit(asked)
    return asked


def test_a_run_that_has_ended_can_teach(services: Services, search: str) -> None:
    run = services.runbook.submit(RunSpec(search=search, candidate=4)).id
    claimed(services)
    ledger = RunLedger(services.database, run, "worker")
    for position, kind in enumerate(("teacher", "pretrain", "qat")):
        made = StageRecord(name=kind, state=WorkState.SUCCEEDED, checkpoint=f"sealed/{kind}")
        ledger.stage(position, made)
    ledger.stage(3, StageRecord(name="sft", makes="teacher", state=WorkState.SUCCEEDED, checkpoint="sealed/taught"))
    ledger.stage(4, StageRecord(name="synthesise", makes="data", state=WorkState.SUCCEEDED, data="made.jsonl"))
    with pytest.raises(TeacherNotReady, match="running"):
        ask(services, search, f"run:{run}")
    services.claims.finish_run(run, "worker", WorkState.FAILED)  # the phone broke; what is trained is trained
    with pytest.raises(NotFound):
        ask(services, search, "run:none")
    with pytest.raises(TeacherNotReady, match="no ptq"):
        ask(services, search, f"run:{run}/ptq")
    with pytest.raises(TeacherUnfit, match="vocabulary of 256"):
        ask(services, search, f"run:{run}", number=5)
    home = services.settings.home
    named = ask(services, search, f"run:{run}").stages[0].teacher
    assert named is not None
    with pytest.raises(TeacherLost):
        folder(services.database, home, named)
    (home / "runs" / run / "sealed" / "pretrain").mkdir(parents=True)
    assert folder(services.database, home, named) == home / "runs" / run / "sealed" / "pretrain"
    wider = ask(services, search, f"run:{run}/teacher").stages[0].teacher
    assert wider is not None
    (home / "runs" / run / "sealed" / "taught").mkdir()
    assert folder(services.database, home, wider).name == "taught"  # by conversations, after its pretraining


def test_the_command_line_takes_json_with_brackets_and_commas_in_its_words() -> None:
    text = r'synthesise:recipe={"name": "a, b", "steps": ["end with \"\\boxed{\", or ]"]},limit=3,tutor=self'
    recipe = {"name": "a, b", "steps": ['end with "\\boxed{", or ]']}
    assert parse_fields(text) == {"kind": "synthesise", "recipe": recipe, "limit": 3, "tutor": "self"}
