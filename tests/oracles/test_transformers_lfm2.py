"""transformers' Lfm2ForCausalLM judges the model: logits, names of weights, parameter counts."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Lfm2Config, Lfm2ForCausalLM

from trainer.architecture import LFM2_1_2B, LFM2_350M, Architecture, Attention, ShortConv
from trainer.cache import Cache
from trainer.checkpoint import seal
from trainer.errors import CheckpointError, ContextOverflow, UnsupportedArchitecture
from trainer.interop import from_config, load_folder, save_folder, to_config
from trainer.model import HybridLM
from trainer.tokenizer import end_of_text, train_tokenizer

_BOUND = 1e-4  # fp32 logits of order 1


def _architecture(
    kernel: int = 3, heads: int = 4, kv_heads: int = 2, pattern: str = "cacca", tied: bool = True
) -> Architecture:
    kinds = {"c": ShortConv(kernel=kernel), "a": Attention(heads=heads, kv_heads=kv_heads, head_dim=32)}
    blocks = tuple(kinds[kind] for kind in pattern)
    return Architecture(vocab_size=300, width=128, ffn_width=192, blocks=blocks, tied=tied)


def _louder(model: HybridLM) -> HybridLM:
    """Random norms, and an embedding big enough that logits are of order 1: an error anywhere shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
                parameter.mul_(10)
    return model


@pytest.fixture(scope="module", params=[(3, 4, 2, "cacca"), (5, 4, 4, "ac", False), (4, 2, 1, "cc"), (3, 4, 1, "aa")])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HybridLM, Lfm2ForCausalLM]:
    ours = _louder(HybridLM(_architecture(*request.param), seed=3)).eval()
    folder = tmp_path_factory.mktemp("hf")
    save_folder(ours, folder)
    return ours, Lfm2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 300, (batch, length), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_full_sequence(pair: tuple[HybridLM, Lfm2ForCausalLM]) -> None:
    ours, theirs = pair
    tokens = _tokens(2, 67)
    expected = theirs(tokens, use_cache=False).logits
    assert expected.std() > 0.3
    assert (ours(tokens) - expected).abs().max() < _BOUND
    assert (ours(tokens, last_only=True) - expected[:, -1:]).abs().max() < _BOUND


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(30, 37), (1, 1, 65), (2, 64, 1), (60, 1, 1, 5)])
def test_chunked_prefill(pair: tuple[HybridLM, Lfm2ForCausalLM], chunks: tuple[int, ...]) -> None:
    ours, theirs = pair
    tokens = _tokens(2, 67)
    cache = Cache(ours.architecture, batch=2, capacity=67)
    got = torch.cat([ours(part, cache=cache) for part in tokens.split(chunks, dim=1)], dim=1)
    assert (got - theirs(tokens, use_cache=False).logits).abs().max() < _BOUND


@torch.no_grad()
def test_cached_decode(pair: tuple[HybridLM, Lfm2ForCausalLM]) -> None:
    ours, theirs = pair
    tokens = _tokens(1, 40)
    cache = Cache(ours.architecture, capacity=40)
    parts = tokens.split((9, *[1] * 31), dim=1)
    for part, expected in zip(parts, _decoded_by_theirs(theirs, tokens, parts), strict=True):
        assert (ours(part, cache=cache) - expected).abs().max() < _BOUND
    with pytest.raises(ContextOverflow, match="40 of 40"):
        ours(tokens[:, :1], cache=cache)


def _decoded_by_theirs(
    theirs: Lfm2ForCausalLM, tokens: torch.Tensor, parts: tuple[torch.Tensor, ...]
) -> list[torch.Tensor]:
    if "full_attention" not in theirs.config.layer_types:  # transformers' cache refuses models without attention
        whole = theirs(tokens, use_cache=False).logits
        return list(whole.split([part.shape[1] for part in parts], dim=1))
    logits, past = [], None
    for part in parts:
        step = theirs(part, past_key_values=past, use_cache=True)
        past = step.past_key_values
        logits.append(step.logits)
    return logits


def test_weights_travel_back_unchanged(pair: tuple[HybridLM, Lfm2ForCausalLM], tmp_path: Path) -> None:
    ours, theirs = pair
    theirs.save_pretrained(tmp_path)
    back = load_folder(tmp_path)
    assert back.architecture == ours.architecture
    for name, tensor in ours.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_an_untied_head_is_a_matrix_of_its_own(tmp_path: Path) -> None:
    architecture = _architecture(tied=False)
    ours = HybridLM(architecture)
    with torch.device("meta"):
        theirs = Lfm2ForCausalLM(Lfm2Config(**to_config(architecture)))
    assert {name: p.shape for name, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    assert sum(p.numel() for p in ours.parameters()) == architecture.parameters
    save_folder(ours, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="head differs from the embedding"):
        load_folder(tmp_path)


def test_what_a_tied_architecture_is_called_did_not_change() -> None:
    known = "7b09eea8a3d8224419b7bdb134a2f948641f4ce5931105f303b191c3febfba56"
    assert LFM2_350M.hash == known
    assert "tied" not in LFM2_350M.model_dump_json()
    assert LFM2_350M.model_copy(update={"tied": False}).hash != known


@pytest.mark.parametrize(("architecture", "published"), [(LFM2_350M, 354_483_968), (LFM2_1_2B, 1_170_340_608)])
def test_published_parameter_counts(architecture: Architecture, published: int) -> None:
    with torch.device("meta"):
        ours = HybridLM(architecture)
        theirs = Lfm2ForCausalLM(Lfm2Config(**to_config(architecture)))
    assert sum(p.numel() for p in ours.parameters()) == architecture.parameters == published
    names = {name: tensor.shape for name, tensor in theirs.named_parameters() if name != "lm_head.weight"}
    assert {name: tensor.shape for name, tensor in ours.named_parameters()} == names


def test_requested_ffn_widths_become_effective_ones() -> None:
    published = Lfm2Config(hidden_size=1024, intermediate_size=6656, num_hidden_layers=16, num_attention_heads=16)
    published.full_attn_idxs = [2, 5, 8, 10, 12, 14]
    published.layer_types = None
    assert from_config(json.loads(json.dumps(published.to_dict()))) == LFM2_350M


@pytest.mark.parametrize(
    ("blocks", "named"),
    [
        ((ShortConv(kernel=3), ShortConv(kernel=4)), "one kernel"),
        ((Attention(heads=4, kv_heads=2, head_dim=32), Attention(heads=4, kv_heads=1, head_dim=32)), "one kv_heads"),
        ((Attention(heads=4, kv_heads=2, head_dim=32), Attention(heads=2, kv_heads=2, head_dim=32)), "one heads"),
        ((Attention(heads=4, kv_heads=2, head_dim=32), Attention(heads=4, kv_heads=2, head_dim=16)), "one head_dim"),
    ],
)
def test_what_lfm2_cannot_express_is_refused_by_name(
    blocks: tuple[ShortConv | Attention, ...], named: str, tmp_path: Path
) -> None:
    architecture = Architecture(vocab_size=300, width=128, ffn_width=192, blocks=blocks)
    with pytest.raises(UnsupportedArchitecture, match=named):
        save_folder(HybridLM(architecture), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"conv_bias": True}, "biases"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8}}, "llama3"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": None, "theta": 777.0}, "theta"),
        ({"conv_L_cache": 17}, "conv_L_cache: .* less than or equal to 16"),
        ({"hidden_size": 48}, "hidden_size: .* multiple of 32"),
        ({"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8}, "num_attention_heads x head_dim"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) .* num_key_value_heads \(3\)"),
        ({"layer_types": ["conv", "full_attention", "sliding_attention", "conv", "conv"]}, "sliding_attention"),
    ],
)
def test_foreign_configs_are_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=named):
        from_config(to_config(_architecture()) | change)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": None, "rope_theta": 500.0},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 500.0},
        {"rope_parameters": None, "theta": 777.0, "rope_theta": 500.0},
        {"intermediate_size": None, "block_ff_dim": 192},
        {"layer_types": None, "full_attn_idxs": [0, 4]},
        {"num_key_value_heads": None, "num_attention_heads": 8, "head_dim": 16},
        {"layer_types": ["conv"] * 5, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": None},
        {"conv_L_cache": None, "norm_eps": None, "conv_bias": None, "tie_word_embeddings": None},
        {"intermediate_size": 385, "block_auto_adjust_ff_dim": True, "block_multiple_of": 32},
    ],
    ids=lambda change: " ".join(change),
)
def test_what_transformers_saves_by_any_spelling_loads(change: dict[str, object], tmp_path: Path) -> None:
    config = {name: value for name, value in (to_config(_architecture()) | change).items() if value is not None}
    torch.manual_seed(0)
    theirs = Lfm2ForCausalLM(Lfm2Config(**config, initializer_range=0.1)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "unrelated.safetensors").write_bytes(b"not the model's")
    theirs = Lfm2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = _tokens(2, 40)
    assert (load_folder(tmp_path)(tokens) - theirs(tokens, use_cache=False).logits).abs().max() < _BOUND


def test_broken_folders_say_what_is_broken(tmp_path: Path) -> None:
    model = HybridLM(_architecture())
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_folder(tmp_path)
    save_folder(model, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_folder(tmp_path)
    save_folder(HybridLM(_architecture(pattern="cc")), tmp_path / "other")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="do not fit"):
        load_folder(tmp_path)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    kernel=st.integers(2, 6),
    pattern=st.sampled_from(["ca", "ac", "cc", "aa"]),
)
@torch.no_grad()
def test_packed_documents_never_see_each_other(lengths: list[int], kernel: int, pattern: str) -> None:
    model = _louder(HybridLM(_architecture(kernel=kernel, pattern=pattern), seed=5))
    tokens = _tokens(1, sum(lengths))
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    packed = model(tokens, documents=documents).split(lengths, dim=1)
    alone = [model(part) for part in tokens.split(lengths, dim=1)]
    for got, expected in zip(packed, alone, strict=True):
        assert (got - expected).abs().max() < _BOUND


@pytest.mark.parametrize("pattern", ["ca", "ac", "cc", "aa"])
@pytest.mark.parametrize("lengths", [(1, 1, 1, 9), (2, 7, 3), (6, 6), (1, 11), (11, 1)])
def test_no_gradient_crosses_the_bounds_of_documents(pattern: str, lengths: tuple[int, ...]) -> None:
    model = _louder(HybridLM(_architecture(kernel=5, pattern=pattern), seed=5))
    embedded: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.model.embed_tokens.register_forward_hook(keep)
    rows = [torch.repeat_interleave(torch.arange(len(part)), torch.tensor(part)) for part in (lengths, lengths[::-1])]
    documents = torch.stack(rows)
    hidden = model.hidden(_tokens(2, 12), documents=documents)
    hidden[0][documents[0] == 1].square().sum().backward()
    gradient = embedded[0].grad
    assert gradient is not None
    assert torch.equal(gradient[0].abs().sum(-1) > 0, documents[0] == 1)
    assert not gradient[1].any()


@torch.no_grad()
def test_without_document_ids_packed_documents_do_leak() -> None:
    """The property above can fail: the same tokens read as one document give other logits."""
    model = _louder(HybridLM(_architecture(), seed=5))
    tokens = _tokens(1, 20)
    assert (model(tokens)[:, 10:] - model(tokens[:, 10:])).abs().max() > 100 * _BOUND


def test_the_tokenizer_beside_the_weights_loads(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["Some words, naïve ones too.\n\tif x == 3:"] * 3, 300)
    end = end_of_text(tokenizer)
    model = HybridLM(_architecture())
    save_folder(model, tmp_path / "saved", tokenizer=tokenizer.to_str(), end_of_text=end)
    for folder in (tmp_path / "saved", seal(model, tmp_path, tokenizer).directory):
        loaded = AutoTokenizer.from_pretrained(folder)
        for text in ("naïve words", " two  spaces\n\n", "don 't , ! 😀 日本語", ""):
            assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
            assert loaded.decode(loaded(text)["input_ids"]) == text
        assert loaded.eos_token_id == end == Lfm2ForCausalLM.from_pretrained(folder).config.eos_token_id
