"""GGUF files, read back by gguf's own reader and dequantised by its own code, which are llama.cpp's.

That llama.cpp itself says the same tokens is seen by `make oracle-llama`: it takes long to build.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from trainer.architecture import Architecture, Attention, ShortConv, Yarn
from trainer.errors import CheckpointError, QuantisationError, TokenizerError, UnsupportedArchitecture
from trainer.gguf import WeightType, save_gguf
from trainer.gguf.blocks import q4_0
from trainer.gguf.model import tensor_name
from trainer.model import HybridLM
from trainer.precision import EIGHT, FULL, HEAD, Precision, Scheme, matrices
from trainer.quantise import pack
from trainer.tokenizer import END_OF_TEXT, end_of_text, train_tokenizer

VOCABULARY = 320
_CONV, _ATTENTION = ShortConv(kernel=4), Attention(heads=4, kv_heads=2, head_dim=32)


def _architecture(*blocks: ShortConv | Attention, width: int = 128) -> Architecture:
    return Architecture(vocab_size=VOCABULARY, width=width, ffn_width=192, blocks=blocks, rope_theta=5e4)


@pytest.fixture(scope="module")
def model() -> HybridLM:
    model = HybridLM(_architecture(_CONV, _ATTENTION, _CONV), seed=3).eval()
    with torch.no_grad():
        model.model.layers[0].feed_forward.w1.weight[3, 32:64] = 0  # a group that has no scale of its own
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["for i in range(10): print('some words, naïve ones')\n"] * 3, 300)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    reader = GGUFReader(file)
    values = {
        tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).reshape(
            *(int(size) for size in reversed(tensor.shape))
        )
        for tensor in reader.tensors
    }
    return {name: field.contents() for name, field in reader.fields.items()}, values


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_plain_weights_are_there_one_by_one(model: HybridLM, tmp_path: Path, kind: WeightType) -> None:
    written = save_gguf(model, tmp_path / "a.gguf", tokenizer=None, kind=kind)
    _, values = _read(written.file)
    assert written.size == written.file.stat().st_size
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
    for name, weight in model.state_dict().items():
        expected = weight.to(dtype).float() if weight.dim() == 2 else weight.reshape(weight.shape[0], *weight.shape[2:])
        assert torch.equal(values.pop(tensor_name(name)), expected), name
    assert not values


@pytest.mark.parametrize("group", [32, 64])
def test_four_bit_weights_are_exactly_those_of_deployment(model: HybridLM, tmp_path: Path, group: int) -> None:
    packing = pack(model, Scheme(weights=Precision(group_size=group)))
    written = save_gguf(model, tmp_path / "a.gguf", tokenizer=None, kind="q4_0", packing=packing)
    assert written.rounded == 0
    _, values = _read(written.file)
    for name, weight in model.state_dict().items():
        got = values.pop(tensor_name(name))
        if weight.dim() == 2:
            assert torch.equal(got, packing.integers[name].dequantised()), name
        else:
            assert torch.equal(got, weight.reshape(got.shape)), name
    assert not values


def test_a_tied_matrix_that_is_read_and_written_differently_is_two(model: HybridLM, tmp_path: Path) -> None:
    packing = pack(model, Scheme(weights=Precision(), embedding=FULL, head=EIGHT))
    written = save_gguf(model, tmp_path / "a.gguf", tokenizer=None, kind="q4_0", packing=packing)
    _, values = _read(written.file)
    assert torch.equal(values["token_embd.weight"], model.model.embed_tokens.weight)
    assert torch.equal(values["output.weight"], packing.integers[HEAD].dequantised())


def test_an_untied_model_of_mixed_precision_is_taken_over_integer_by_integer(tmp_path: Path) -> None:
    architecture = _architecture(_CONV, _ATTENTION).model_copy(update={"tied": False})
    untied = HybridLM(architecture, seed=5).eval()
    mixed = {role: EIGHT for i, role in enumerate(matrices(architecture)) if i % 2}
    packing = pack(untied, Scheme(overrides=mixed))
    written = save_gguf(untied, tmp_path / "a.gguf", tokenizer=None, kind="q4_0", packing=packing)
    _, values = _read(written.file)
    assert written.rounded == 0
    for role in matrices(architecture):
        assert torch.equal(values[tensor_name(role)], packing.integers[role].dequantised()), role


def test_scales_that_fp16_lacks_are_counted_or_refused() -> None:
    q = torch.full((2, 64), -8, dtype=torch.int8)
    exact = torch.tensor([[0.5, 2.0**-24], [1.0, 65280.0]])
    assert q4_0(q, exact).rounded == 0
    assert q4_0(q, torch.tensor([[0.5, 2.0**-24 * 1.5], [1.0, 2.0**-30]])).rounded == 2
    with pytest.raises(QuantisationError, match="larger than fp16"):
        q4_0(q, torch.tensor([[0.5, 0.5], [1.0, 1e5]]))
    with pytest.raises(QuantisationError, match="groups of 16"):
        q4_0(q, torch.ones(2, 4))


def test_llama_cpp_finds_the_shape(model: HybridLM, tmp_path: Path) -> None:
    fields, _ = _read(save_gguf(model, tmp_path / "a.gguf", tokenizer=None).file)
    assert fields["general.architecture"] == "lfm2"
    assert fields["lfm2.attention.head_count_kv"] == [0, 2, 0]
    expected = {
        "block_count": 3,
        "embedding_length": 128,
        "feed_forward_length": 192,
        "attention.head_count": 4,
        "attention.key_length": 32,
        "rope.dimension_count": 32,
        "vocab_size": VOCABULARY,
        "shortconv.l_cache": 4,
        "rope.freq_base": 5e4,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
    }
    assert {name: fields[f"lfm2.{name}"] for name in expected} == expected


def test_a_stretched_context_is_told_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    plain = _architecture(_CONV, _ATTENTION)
    stretched = plain.model_copy(update={"yarn": Yarn(factor=8, original=4096, fast=24)})
    told, before = (
        _read(save_gguf(HybridLM(architecture), tmp_path / "a.gguf", tokenizer=None).file)[0]
        for architecture in (stretched, plain)
    )
    scaling = {name.removeprefix("lfm2.rope.scaling."): value for name, value in told.items() if "scaling" in name}
    assert scaling == {
        "type": "yarn",
        "factor": 8,
        "original_context_length": 4096,
        "yarn_beta_fast": 24,
        "yarn_beta_slow": 1,
    }
    assert told["lfm2.context_length"] == 32_768
    assert not any("scaling" in name for name in before)


def test_the_tokenizer_goes_along(model: HybridLM, tokenizer: Tokenizer, tmp_path: Path) -> None:
    fields, _ = _read(save_gguf(model, tmp_path / "a.gguf", tokenizer=tokenizer).file)
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    known = tokenizer.get_vocab_size()
    assert tokens[:known] == [tokenizer.id_to_token(index) for index in range(known)]
    assert len(tokens) == VOCABULARY == len(set(tokens))
    assert kinds[known:] == [TokenType.UNUSED] * (VOCABULARY - known)
    assert kinds.index(TokenType.CONTROL) == tokens.index(END_OF_TEXT) == fields["tokenizer.ggml.eos_token_id"]
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert fields["tokenizer.ggml.add_bos_token"] is False
    pairs = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]]
    assert len(pairs) == known - 257
    assert all(first + second in tokens for first, second in pairs)


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        (_architecture(_CONV, ShortConv(kernel=3), _ATTENTION), "one kernel"),
        (_architecture(_CONV, _ATTENTION, width=160), "160.*4 heads of 32"),
        (_architecture(_CONV, _CONV), "one of them alone"),
        (_architecture(_ATTENTION, _ATTENTION), "one of them alone"),
    ],
)
def test_what_llama_cpp_cannot_be_is_refused(architecture: Architecture, named: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match=named):
        save_gguf(HybridLM(architecture), tmp_path / "a.gguf", tokenizer=None)
    assert not list(tmp_path.iterdir())


def _changed(tokenizer: Tokenizer, what: str) -> Tokenizer:
    changed = Tokenizer.from_str(tokenizer.to_str())
    match what:
        case "normalises":
            changed.normalizer = normalizers.NFKC()
        case "no name":
            changed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        case "WordLevel":
            changed = Tokenizer(models.WordLevel({END_OF_TEXT: 0}, unk_token=END_OF_TEXT))
            changed.decoder = decoders.ByteLevel()
        case "more ids|has [0-9]+ ids":
            changed.add_tokens([f"more{index}" for index in range(100)])
    return changed


@pytest.mark.parametrize("what", ["normalises", "no name", "WordLevel", "more ids|has [0-9]+ ids"])
def test_words_that_llama_cpp_would_cut_elsewhere_are_refused(
    model: HybridLM, tokenizer: Tokenizer, tmp_path: Path, what: str
) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"what was there before")
    with pytest.raises(TokenizerError, match=what):
        save_gguf(model, target, tokenizer=_changed(tokenizer, what))
    assert target.read_bytes() == b"what was there before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_llama_3_cuts_words_by_its_own_name(model: HybridLM, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    like_llama = Tokenizer.from_str(tokenizer.to_str())
    like_llama.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
    with pytest.raises(TokenizerError, match="no name"):
        save_gguf(model, tmp_path / "a.gguf", tokenizer=like_llama)
    like_llama.model.ignore_merges = True
    fields, _ = _read(save_gguf(model, tmp_path / "a.gguf", tokenizer=like_llama).file)
    assert fields["tokenizer.ggml.pre"] == "llama-bpe"
    assert fields["tokenizer.ggml.eos_token_id"] == end_of_text(tokenizer)


def test_a_disk_that_refuses_is_said(model: HybridLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_gguf(model, tmp_path / "file" / "a.gguf", tokenizer=None)


def test_the_packing_is_the_formats_own() -> None:
    """The layout by hand: scale, then elements i and i + 16 of a byte, low and high."""
    q = torch.arange(-8, 8, dtype=torch.int8).repeat(2)[None]
    block = q4_0(q, torch.tensor([[2.0]])).blocks[0]
    assert np.frombuffer(block[:2].tobytes(), dtype=np.float16)[0] == 2
    assert block[2:].tolist() == [nibble * 17 for nibble in range(16)]
