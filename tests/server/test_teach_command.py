"""`fulcrum teach`, and a training that names what it made as its teacher."""

import json
import sysconfig
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from server.cli.main import application
from server.cli.words import in_words
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import seal
from trainer.data import Corpus, prepare
from trainer.model import HybridLM
from trainer.sources import Source

ARCHITECTURE = Architecture(
    vocab_size=300, width=64, ffn_width=96, blocks=(ShortConv(), Attention(heads=2, kv_heads=1, head_dim=32))
)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(application(), [*map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    torch.set_num_threads(1)
    library = Path(sysconfig.get_path("stdlib"))
    sources = [Source(path=library / name) for name in ("argparse.py", "ast.py", "heapq.py")]
    return prepare(sources, tmp_path_factory.mktemp("corpora") / "small", vocab_size=300)


def test_a_cache_is_made_grown_and_taught_from(corpus: Corpus, tmp_path: Path) -> None:
    teacher = seal(HybridLM(ARCHITECTURE, seed=3), tmp_path / "sealed", corpus.tokenizer).directory
    given = ["teach", corpus.directory, tmp_path / "taught", "--teacher", teacher, "--sequence", "32", "--json"]
    assert json.loads(run(*given, "--tokens", "200"))["tokens"] == 224
    grown = json.loads(run(*given, "--tokens", "512"))
    assert grown["tokens"] == 512
    assert grown["bytes_per_token"] < 100

    (tmp_path / "model.json").write_text(ARCHITECTURE.model_dump_json())
    train = [
        "train",
        tmp_path / "out",
        "--architecture",
        tmp_path / "model.json",
        "--corpus",
        corpus.directory,
        "--json",
    ]
    stage = f"pretrain:teacher={tmp_path / 'taught'},tokens=512,batch=4,sequence=32"
    (outcome,) = json.loads(run(*train, "--stage", stage))["stages"]
    assert outcome["tokens"] == 512
    for refused, named in (
        ([*train, "--stage", f"{stage},seed=1"], "another seed: 0, not 1"),
        ([*given, "--tokens", "512", "--top-k", "4"], "another top_k: 32, not 4"),
        (["teach", corpus.directory, tmp_path / "t", "--teacher", tmp_path / "taught"], "is a cache itself"),
    ):
        with pytest.raises(Exception, match=named) as error:
            run(*refused)
        assert in_words(error.value)[1]
