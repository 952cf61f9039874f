"""`fulcrum quantise` and stages on the command line, in this process."""

import json
import sysconfig
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from server.cli.main import application
from server.cli.stages import MalformedOption, parse_stage
from server.cli.words import in_words
from server.runs import StageRequest
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint, seal
from trainer.data import prepare
from trainer.interop import save_folder
from trainer.model import HybridLM
from trainer.precision import EIGHT, HEAD, Precision
from trainer.sources import Source
from trainer.tokenizer import train_tokenizer

TEXT = Path(sysconfig.get_path("stdlib")) / "argparse.py"
BLOCKS = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=32))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    architecture = Architecture(vocab_size=300, width=64, ffn_width=96, blocks=BLOCKS, tied=False)
    tokenizer = train_tokenizer([TEXT.read_text()], 300)
    return seal(HybridLM(architecture, seed=3), tmp_path_factory.mktemp("sealed"), tokenizer)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(application(), ["quantise", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def said(*arguments: str | Path) -> str:
    with pytest.raises(Exception) as refused:  # noqa: PT011 - of whatever kind, the command line puts it into words
        run(*arguments)
    message, advice = in_words(refused.value)
    assert advice
    assert "defect" not in advice
    return message


def test_a_checkpoint_is_quantised_and_not_twice(checkpoint: Checkpoint, tmp_path: Path) -> None:
    given = ["--out", tmp_path, "--text", TEXT, "--option", "calibration_windows=4", "--option", "sequence=32"]
    found = json.loads(run(checkpoint.directory, *given, "--method", "gptq", "--head", "8", "--json"))
    made = Checkpoint(Path(found["checkpoint"]))
    packing = made.packing()
    assert packing is not None
    assert packing.scheme.of(HEAD) == EIGHT
    assert found["after"]["matrix_bytes"] == packing.scheme.bytes(made.architecture)
    assert torch.equal(made.model().lm_head.weight, checkpoint.model().lm_head.weight)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert made.directory.name in run(checkpoint.directory, *given, "--method", "gptq", "--head", "8")
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


def test_a_hugging_face_folder_is_trained_under_a_budget(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    save_folder(checkpoint.model(), folder, tokenizer=checkpoint.tokenizer.to_str(), end_of_text=0)
    options = ["tokens=256", "batch=2", "sequence=32", "calibration_windows=2", "masters=bfloat16", "scales=learned"]
    pairs = [part for option in options for part in ("--option", option)]
    told = run(folder, "--out", tmp_path / "out", "--text", TEXT, "--byte-budget", "80000", *pairs)
    made = Checkpoint(Path(told.rsplit("Checkpoint: ", 1)[1].strip()))
    packing = made.packing()
    assert packing is not None
    assert packing.scheme.bytes(made.architecture) <= 80_000
    assert all(f"{role}: {precision}" in told for role, precision in packing.scheme.overrides.items())
    assert json.loads((made.directory / "quantisation.json").read_text())["found"]["byte_budget"] == 80_000


def test_what_cannot_be_quantised_is_refused_in_words(checkpoint: Checkpoint, tmp_path: Path) -> None:
    given = [checkpoint.directory, "--out", tmp_path / "out", "--text", TEXT]
    assert "groups of 64 do not divide the 96 inputs" in said(*given, "--weights", "4g64")
    assert "'5' is no precision" in said(*given, "--head", "5")
    assert "'awq' is no method" in said(*given, "--method", "awq")
    assert "100 bytes are too few" in said(*given, "--byte-budget", "100")
    assert "there is no text" in said(checkpoint.directory, "--out", tmp_path / "out")
    assert "scals" in said(*given, "--option", "scals=learned")
    assert "is not NAME=VALUE" in said(*given, "--option", "scales")
    assert "is not a checkpoint" in said(tmp_path, *given[1:])
    folder = tmp_path / "folder"
    save_folder(checkpoint.model(), folder, tokenizer=checkpoint.tokenizer.to_str(), end_of_text=0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    assert r"feed_forward.w1.weight is [96, 64], not [128, 64] (and 5 more)" in said(folder, *given[1:])
    other = prepare([Source(path=TEXT)], tmp_path / "corpus", vocab_size=290)
    assert "another tokenizer" in said(*given[:3], "--corpus", other.directory)


def test_stages_are_written_with_their_options() -> None:
    assert parse_stage("teacher") == StageRequest(name="teacher")
    asked = parse_stage('qat:tokens=7,scales=learned,candidates=[{"bits":8},{"bits":4,"group_size":64}],byte_budget=9')
    assert (asked.name, asked.tokens) == ("qat", 7)
    assert asked.options["byte_budget"] == 9
    assert Precision.model_validate(asked.options["candidates"][1]) == Precision(bits=4, group_size=64)
    assert parse_stage("ptq:method=nearest").options == {"method": "nearest"}
    for wrong in ("qat:scales=lerned", "ptq:tokens=3", "teacher:scales=learned", "qta", "qat:scheme=4"):
        with pytest.raises(ValidationError):
            parse_stage(wrong)
    with pytest.raises(MalformedOption, match="NAME=VALUE"):
        parse_stage("qat:scales")
