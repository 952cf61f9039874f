"""transformers judges YaRN: its frequencies, its temperature, its Lfm2's logits beyond the original context."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Lfm2Config, Lfm2ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from trainer.architecture import LFM2_350M, Architecture, Attention, Rope, ShortConv, Yarn
from trainer.cache import Cache
from trainer.errors import UnsupportedArchitecture
from trainer.interop import from_config, load_folder, save_folder, to_config
from trainer.model import HybridLM
from trainer.rope import attention_factor, frequencies

_ORIGINAL = 64
_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": _ORIGINAL}


def _architecture(yarn: Yarn | None, theta: float = 1e4) -> Architecture:
    blocks = (ShortConv(), Attention(heads=4, kv_heads=2, head_dim=32)) * 2
    return Architecture(vocab_size=300, width=128, ffn_width=192, blocks=blocks, rope_theta=theta, yarn=yarn)


def _config(rope: dict[str, Any], **more: Any) -> dict[str, Any]:
    return to_config(_architecture(None)) | {"rope_parameters": {"rope_theta": 1e4, **rope}, **more}


@settings(max_examples=60, deadline=None)
@given(
    head_dim=st.sampled_from([8, 16, 32, 64, 128]),
    theta=st.sampled_from([1e4, 5e5, 1e6]) | st.floats(10, 1e8),
    factor=st.floats(1, 64),
    original=st.integers(8, 32_768),
    fast=st.floats(1.5, 64),
    slow=st.floats(0.1, 1.4),
)
def test_frequencies_and_temperature(
    head_dim: int, theta: float, factor: float, original: int, fast: float, slow: float
) -> None:
    yarn = Yarn(factor=factor, original=original, fast=fast, slow=slow)
    blocks = (Attention(heads=4, kv_heads=2, head_dim=head_dim),)
    ours = Architecture(vocab_size=300, width=128, ffn_width=192, blocks=blocks, rope_theta=theta, yarn=yarn)
    expected, temperature = ROPE_INIT_FUNCTIONS["yarn"](Lfm2Config(**to_config(ours)), None)
    assert torch.allclose(frequencies(head_dim, Rope(theta=theta, yarn=yarn)), expected, rtol=1e-6, atol=0)
    assert attention_factor(yarn) == pytest.approx(temperature, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_logits_far_beyond_the_original_length(factor: float, tmp_path: Path) -> None:
    ours = HybridLM(_architecture(Yarn(factor=factor, original=_ORIGINAL)), seed=3).eval()
    ours.model.embed_tokens.weight.mul_(10)
    save_folder(ours, tmp_path)
    theirs = Lfm2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(0, 300, (2, 700), generator=torch.Generator().manual_seed(7))
    expected = theirs(tokens, use_cache=False).logits
    assert expected.std() > 0.3
    assert (ours(tokens) - expected).abs().max() < 1e-4
    cache = Cache(ours.architecture, batch=2, capacity=700)
    chunked = torch.cat([ours(part, cache=cache) for part in tokens.split((600, 1, 99), dim=1)], dim=1)
    assert (chunked - expected).abs().max() < 1e-4
    plain = HybridLM(_architecture(None))
    plain.load_state_dict(ours.state_dict())
    assert (plain(tokens) - expected).abs().max() > 1e-2  # an error of the tables would show


def test_the_stretched_context_travels_both_ways(tmp_path: Path) -> None:
    architecture = _architecture(Yarn(factor=8, original=4096, fast=24, slow=2))
    save_folder(HybridLM(architecture), tmp_path)
    theirs = Lfm2ForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.max_position_embeddings == 32_768
    theirs.save_pretrained(tmp_path / "back")
    assert load_folder(tmp_path / "back").architecture == architecture
    assert "yarn" not in LFM2_350M.model_dump_json()


@pytest.mark.parametrize(
    "config",
    [
        _config(_YARN),
        _config(_YARN | {"factor": None}, max_position_embeddings=8 * _ORIGINAL),
        _config({"rope_type": "yarn", "factor": 4.0}, max_position_embeddings=128),
        _config(_YARN, original_max_position_embeddings=128),
        _config(_YARN | {"beta_fast": None, "beta_slow": 2, "attention_factor": 1.2079441541679836}),
        _config(_YARN | {"mscale": 1.0, "mscale_all_dim": 0.0}),
        _config({"rope_type": "default"}, rope_theta=1e4, rope_scaling={**_YARN, "type": "yarn"}),
    ],
)
@torch.no_grad()
def test_any_spelling_of_yarn_gives_their_logits(config: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Lfm2ForCausalLM(Lfm2Config(**config, initializer_range=0.1)).eval()
    ours = HybridLM(from_config(config)).eval()
    ours.load_state_dict({n: t for n, t in theirs.state_dict().items() if n != "lm_head.weight"})
    tokens = torch.randint(0, 300, (1, 200), generator=torch.Generator().manual_seed(7))
    assert (ours(tokens) - theirs(tokens, use_cache=False).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"truncate": False}, "truncate"),
        ({"attention_factor": 1.0}, "attention factor"),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, "attention factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"beta_fast": 1.0}, "fast"),
        ({"rope_type": "longrope"}, "longrope"),
    ],
)
def test_what_we_cannot_express_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=named):
        from_config(_config(_YARN | change))
