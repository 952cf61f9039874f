"""transformers loads what is exported for it, and says the same tokens."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.errors import CheckpointError, UnsupportedArchitecture
from trainer.generation import Engine, SamplingParams
from trainer.hugging_face import as_deployed, save_hugging_face
from trainer.model import HybridLM
from trainer.precision import EIGHT, FULL, Precision, Scheme
from trainer.quantise import pack
from trainer.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["for i in range(10): print('some words, naïve ones')\n"] * 3, 290)
_BLOCKS = (ShortConv(), Attention(heads=4, kv_heads=2, head_dim=32), ShortConv())


@pytest.fixture(scope="module")
def model() -> HybridLM:
    model = HybridLM(Architecture(vocab_size=300, width=128, ffn_width=192, blocks=_BLOCKS), seed=3).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            elif name.endswith(("out_proj.weight", "w2.weight")):
                parameter.mul_(8)  # or else the last token alone would decide
        model.model.embed_tokens.weight.mul_(10)  # logits of order 1
    return model


@pytest.mark.parametrize("rounded", [False, True])
def test_the_same_greedy_tokens(model: HybridLM, tmp_path: Path, rounded: bool) -> None:
    ours = as_deployed(model, pack(model)) if rounded else model
    save_hugging_face(ours, tmp_path / "hf", tokenizer=TOKENIZER)
    theirs, words = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "hf"),
        AutoTokenizer.from_pretrained(tmp_path / "hf"),
    )
    prompt = words("for i in", return_tensors="pt")
    said = theirs.generate(**prompt, min_new_tokens=64, max_new_tokens=64)[0].tolist()
    ids = prompt["input_ids"][0].tolist()
    assert theirs.dtype == torch.float32
    assert ids == TOKENIZER.encode("for i in").ids
    assert len(said) == len(ids) + 64
    assert len(set(said)) > 5
    assert said[len(ids) :] == Engine(ours).submit(ids, SamplingParams(max_tokens=64)).result().tokens
    assert theirs.generation_config.eos_token_id == words.eos_token_id == TOKENIZER.token_to_id("<|endoftext|>")


@pytest.mark.parametrize(("dtype", "is_"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_narrower_types(model: HybridLM, tmp_path: Path, dtype: str, is_: torch.dtype) -> None:
    packing = pack(model, Scheme(weights=Precision(group_size=64)))
    deployed = as_deployed(model, packing)
    save_hugging_face(deployed, tmp_path / "hf", tokenizer=TOKENIZER, dtype=dtype)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    exact = True
    for name, weight in model.state_dict().items():
        assert theirs[name].dtype == is_
        if weight.dim() == 2:
            rounded = packing.integers[name].dequantised()
            assert torch.equal(theirs[name], rounded.to(is_)), name
            exact &= torch.equal(theirs[name].float(), rounded)
    assert exact is (dtype == "f16")  # 11 significant bits hold every product of an integer and a scale


def test_what_cannot_be_written_leaves_nothing(model: HybridLM, tmp_path: Path) -> None:
    for scheme in (Scheme(embedding=FULL), Scheme(head=EIGHT)):
        with pytest.raises(UnsupportedArchitecture, match="another embedding than its head"):
            as_deployed(model, pack(model, scheme))
    mixed = Architecture(vocab_size=300, width=128, ffn_width=192, blocks=(ShortConv(kernel=3), ShortConv(kernel=4)))
    with pytest.raises(UnsupportedArchitecture, match="one kernel"):
        save_hugging_face(HybridLM(mixed), tmp_path / "hf", tokenizer=TOKENIZER)
    assert not list(tmp_path.iterdir())
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("kept")
    with pytest.raises(CheckpointError, match="not empty"):
        save_hugging_face(model, tmp_path / "hf", tokenizer=TOKENIZER)
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["mine.txt"]


def test_plain_files_say_what_they_are(model: HybridLM, tmp_path: Path) -> None:
    save_hugging_face(model, tmp_path / "hf", tokenizer=TOKENIZER, dtype="bf16")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
