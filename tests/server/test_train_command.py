"""`fulcrum train`, in this process."""

import json
import os
import signal
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from server.cli.main import application
from server.cli.words import in_words
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint
from trainer.data import Corpus, prepare
from trainer.errors import Interrupted
from trainer.sources import Source

TEXT = Path(sysconfig.get_path("stdlib")) / "argparse.py"
STAGE = "pretrain:tokens=5120,batch=4,sequence=32,learning_rate=0.01"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare([Source(path=TEXT)], tmp_path_factory.mktemp("corpora") / "small", vocab_size=300)


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    blocks = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16))
    file = tmp_path_factory.mktemp("model") / "architecture.json"
    file.write_text(Architecture(vocab_size=300, width=32, ffn_width=64, blocks=blocks).model_dump_json())
    return file


def run(*arguments: str | Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    result = CliRunner().invoke(application(), ["train", *map(str, arguments), "--json"])
    if result.exception is not None:
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_model_is_trained_stopped_and_carried_on(corpus: Corpus, architecture: Path, tmp_path: Path) -> None:
    given = ["--architecture", architecture, "--corpus", corpus.directory, "--stage", "teacher:tokens=1024,widen=2"]
    given += ["--stage", STAGE]
    whole = run(tmp_path / "whole", *given)
    assert [stage["stage"] for stage in whole["stages"]] == ["teacher", "pretrain"]
    assert whole["stages"][1]["after"]["bits_per_byte"] < whole["stages"][1]["before"]["bits_per_byte"]

    # Whoever is in the middle of a stage after a second is asked to stop, as a cluster asks before it takes a machine.
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path / "parts", *given[:-1], STAGE.replace("5120", "5120000"))
    signal.signal(signal.SIGALRM, before)
    assert "start it again" in stopped.value.advice
    (saved,) = (tmp_path / "parts").glob("01-pretrain-*/training/*-step-*")
    assert saved.is_dir()

    further = run(tmp_path / "further", "--from", whole["checkpoint"], "--text", TEXT, "--stage", "ptq:method=nearest")
    assert Checkpoint(Path(further["checkpoint"])).packing() is not None


def test_what_is_wrong_is_said(corpus: Corpus, architecture: Path, tmp_path: Path) -> None:
    given = ["--corpus", corpus.directory, "--stage"]
    bad = tmp_path / "architecture.json"
    bad.write_text('{"vocab_size": 300, "width": 33}')
    for arguments, words in (
        ([*given, STAGE], "what shall be trained"),
        ([*given, "pretrain:tokens=-1", "--architecture", architecture], "tokens: Input should be greater"),
        ([*given, "dance", "--architecture", architecture], "'dance'"),
        ([*given, STAGE, "--architecture", bad], "is no architecture"),
        (["--stage", STAGE, "--architecture", architecture], "no text"),
    ):
        with pytest.raises(Exception) as refused:  # noqa: PT011 - of whatever kind, the command line puts it in words
            run(tmp_path / "out", *arguments)
        message, advice = in_words(refused.value)
        assert words in message
        assert "defect" not in advice
