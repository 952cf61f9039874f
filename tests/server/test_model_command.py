"""`fulcrum model export` as a user types it; what it writes is judged in tests/trainer and tests/oracles."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from gguf import GGUFReader
from typer.testing import CliRunner, Result

from device_agent.contracts import Quantisation
from server.cli import model as command
from server.cli.main import application
from server.runs import StageRecord
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint, seal
from trainer.interop import load_folder
from trainer.model import HybridLM
from trainer.tokenizer import train_tokenizer

_BLOCKS = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=32))


def call(*words: str) -> Result:
    return CliRunner().invoke(application(), ["model", "export", *words])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    model = HybridLM(Architecture(vocab_size=280, width=64, ffn_width=128, blocks=_BLOCKS))
    sealed = tmp_path_factory.mktemp("home") / "runs" / "7" / "sealed"
    return seal(model, sealed, train_tokenizer(["some text"], 280))


def test_a_checkpoint_becomes_a_file_and_a_folder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    file, folder = tmp_path / "new" / "a.gguf", tmp_path / "hf"
    done = call(str(checkpoint.directory), "--gguf", str(file), "--hf", str(folder), "--type", "f16", "--rounded")
    assert done.exit_code == 0, done.output
    assert "MB of f16" in done.output
    assert load_folder(folder).architecture == checkpoint.architecture
    assert {str(tensor.tensor_type.name) for tensor in GGUFReader(file).tensors} == {"F16", "F32"}


def test_a_run_is_found_and_rounded_as_it_was_trained(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = checkpoint.directory.parents[3]
    stages = [StageRecord(name="teacher", checkpoint="no"), StageRecord(name="qat")]
    run = SimpleNamespace(id="7", spec=SimpleNamespace(search="s"), stages=stages)
    quantisation = Quantisation(group_size=64, embedding_bits=32)
    search = SimpleNamespace(spec=SimpleNamespace(quantisation=quantisation))

    class Server:
        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def run(self, _: str) -> SimpleNamespace:
            return run

        def search(self, _: str) -> SimpleNamespace:
            return search

    monkeypatch.setattr(command, "connect", lambda _: Server())
    words = ("7", "--gguf", str(tmp_path / "a.gguf"), "--type", "q4_0")
    assert "trained no model yet" in str(call(*words, "--home", str(home)).exception)
    stages[1] = StageRecord(name="qat", checkpoint=f"sealed/{checkpoint.directory.name}")
    assert "--home" in call(*words, "--home", str(tmp_path)).exception.advice  # type: ignore[union-attr]
    done = call(*words, "--home", str(home))
    assert done.exit_code == 0, done.output
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    assert (kinds["token_embd.weight"], kinds["output.weight"], kinds["blk.0.ffn_up.weight"]) == ("F32", "Q4_0", "Q4_0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--gguf FILE or --hf DIR"),
        (("--hf", "a", "--type", "q4_0"), "with --gguf"),
        (("--gguf", "a", "--type", "q5"), "f32"),
    ],
)
def test_what_says_nothing_is_refused(checkpoint: Checkpoint, words: tuple[str, ...], says: str) -> None:
    done = call(str(checkpoint.directory), *words)
    assert isinstance(done.exception, command.NothingToExport)
    assert says in done.exception.advice


def test_a_directory_that_is_no_checkpoint(tmp_path: Path) -> None:
    done = call(str(tmp_path), "--gguf", str(tmp_path / "a.gguf"))
    assert done.exit_code == 1
    assert "is not a checkpoint" in str(done.exception)
