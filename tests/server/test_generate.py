"""`fulcrum generate` on a tiny checkpoint: the tokens of the plain loop, and words for what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from speaking import tiny_checkpoint
from typer.testing import CliRunner

from server.cli.main import application
from trainer.checkpoint import Checkpoint
from trainer.generate import teacher_forced
from trainer.generation import Engine
from trainer.quantise import quantised


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("sealed"))


def _say(checkpoint: Checkpoint, *arguments: str, said: bytes | None = None) -> Result:
    command = ["generate", str(checkpoint.directory), *arguments]
    return CliRunner().invoke(application(), command, input=said)


def _json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("rounded", [False, True])
def test_greedy_tokens_are_the_plain_models_likeliest(checkpoint: Checkpoint, rounded: bool) -> None:
    """Along the answer itself; sums in another order may turn a near tie, which rounded activations widen."""
    model = quantised(checkpoint.model()) if rounded else checkpoint.model()
    prompt = [0, *checkpoint.tokenizer.encode("Hello there").ids]
    asked = ("Hello there", "--max-tokens", "24", "--json", *(["--quantised"] if rounded else []))
    found = _json(_say(checkpoint, *asked))
    tokens = found["answers"][0]["tokens"]
    logits = teacher_forced(model, prompt, tokens)
    chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert (logits.amax(dim=1) - chosen).max().item() <= (0.05 if rounded else 1e-4)
    other = teacher_forced(checkpoint.model() if rounded else quantised(checkpoint.model()), prompt, tokens)
    told = torch.tensor(found["answers"][0]["logprobs"])

    def off(logits: torch.Tensor) -> float:
        expected = logits.log_softmax(dim=1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        return (told - expected).abs().mean().item()

    assert off(logits) < off(other) / 2  # it spoke with the numerics that were asked for
    assert (found["prompt_tokens"], found["new_tokens"]) == (len(prompt), len(tokens))


def test_what_is_shown_is_what_is_said(checkpoint: Checkpoint) -> None:
    found = _json(_say(checkpoint, "--max-tokens", "9", "--json", said=b"Hello"))
    shown = _say(checkpoint, "Hello", "--max-tokens", "9")
    assert shown.stdout == found["answers"][0]["text"] + "\n"
    assert "9 said" in shown.stderr


def test_equal_seeds_give_equal_answers_and_samples_differ(checkpoint: Checkpoint) -> None:
    def texts(*arguments: str) -> list[str]:
        found = _json(
            _say(checkpoint, "Hi", "--n", "3", "--temperature", "1", "--max-tokens", "12", "--json", *arguments)
        )
        return [answer["text"] for answer in found["answers"]]

    first = texts("--seed", "7")
    assert first == texts("--seed", "7") != texts("--seed", "8")
    assert len(set(first)) == 3


def test_a_chat_is_written_by_the_template(checkpoint: Checkpoint) -> None:
    found = _json(_say(checkpoint, "Hello", "--chat", "--system", "Answer.", "--max-tokens", "4", "--json"))
    ids = checkpoint.tokenizer.encode
    spoken = sum(len(ids(text).ids) for text in ("system\n", "Answer.", "user\n", "Hello", "assistant\n"))
    assert found["prompt_tokens"] == 3 + spoken


def test_control_c_leaves_what_was_said(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _json(_say(checkpoint, "Hello", "--max-tokens", "40", "--json"))["answers"][0]
    steps, step = [], Engine.step

    def interrupted(engine: Engine) -> bool:
        steps.append(1)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(Engine, "step", interrupted)
    result = _say(checkpoint, "Hello", "--max-tokens", "40", "--json")
    assert result.exit_code == 130
    answer = json.loads(result.stdout[result.stdout.index("{") :])["answers"][0]
    assert 0 < len(answer["tokens"]) < 40
    assert answer["tokens"] == whole["tokens"][: len(answer["tokens"])]
    assert answer["finish"] == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [
        ([""], "bad-prompt"),
        (["hi", "--context", "2"], "context-overflow"),
        (["hi", "--max-tokens", "5000"], "context-overflow"),
        (["hello " * 1_000_000], "context-overflow"),
    ],
)
def test_prompts_that_cannot_be_continued(checkpoint: Checkpoint, arguments: list[str], slug: str) -> None:
    assert getattr(_say(checkpoint, *arguments).exception, "slug", None) == slug


def test_bytes_that_are_no_text(checkpoint: Checkpoint) -> None:
    assert getattr(_say(checkpoint, said=b"\xff\xfe").exception, "slug", None) == "bad-prompt"


def test_sources_that_are_none(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def slug(source: object) -> str | None:
        result = CliRunner().invoke(application(), ["generate", str(source), "hi", "--server", "http://127.0.0.1:9"])
        return getattr(result.exception, "slug", None)

    assert slug("no-such-run") == slug(tmp_path / "nothing") == slug(__file__) == "not-trained"
    assert slug(tmp_path) == "bad-checkpoint"
    for file in checkpoint.directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "sha256.json").unlink()
    described = json.loads((tmp_path / "architecture.json").read_text())
    (tmp_path / "architecture.json").write_text(json.dumps({**described, "ffn_width": 128}))
    assert slug(tmp_path) == "bad-checkpoint"
