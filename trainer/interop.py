"""Exchange with Hugging Face folders of Lfm2 models: config.json, model.safetensors, tokenizer.json beside them.

Nothing of transformers is imported: the files are plain, and this is the one place that knows their fields.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.architecture import Architecture, Attention, ShortConv, Yarn
from trainer.errors import CheckpointError, UnsupportedArchitecture
from trainer.model import HybridLM
from trainer.rope import attention_factor

_LARGEST_CONTEXT = 128_000  # Lfm2's own default; the weights do not depend on it
_DEFAULT_THETA = 1e6
_DEFAULTS = {  # Lfm2Config's own, where an absent field has one; the sizes of a model are never guessed
    "num_key_value_heads": 8,
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "tie_word_embeddings": True,
}
_FIELDS = {"kernel": "conv_L_cache", "width": "hidden_size", "ffn_width": "intermediate_size"}
_FIELDS |= {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}


def to_config(architecture: Architecture, *, end_of_text: int | None = None, dtype: str = "float32") -> dict[str, Any]:
    """The config.json of an Lfm2 model with this architecture.

    Raises:
        UnsupportedArchitecture: Lfm2 has one kernel and one attention shape for all layers, and this has several.
    """
    kernel = _only("kernel", {block.kernel for block in architecture.blocks if isinstance(block, ShortConv)}, 3)
    attentions = [block for block in architecture.blocks if isinstance(block, Attention)]
    head_dim = _only("head_dim", {block.head_dim for block in attentions}, 64)
    heads = _only("heads", {block.heads for block in attentions}, max(1, architecture.width // head_dim))
    kv_heads = _only("kv_heads", {block.kv_heads for block in attentions}, heads)
    kinds = ["full_attention" if isinstance(block, Attention) else "conv" for block in architecture.blocks]
    return {
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "dtype": dtype,
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.width,
        "intermediate_size": architecture.ffn_width,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": architecture.depth,
        "layer_types": kinds,
        "full_attn_idxs": [index for index, kind in enumerate(kinds) if kind == "full_attention"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "conv_L_cache": kernel,
        "conv_bias": False,
        "norm_eps": architecture.norm_eps,
        "max_position_embeddings": _longest(architecture.yarn),
        "rope_parameters": _rope_parameters(architecture),
        "tie_word_embeddings": architecture.tied,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
    }


def from_config(config: dict[str, Any]) -> Architecture:
    """The architecture that an Lfm2 config.json describes; older spellings of its fields are understood.

    Raises:
        UnsupportedArchitecture: another model type, rope scaled otherwise than by YaRN, biases.
        CheckpointError: a field is missing or impossible.
    """
    config = _DEFAULTS | config
    _refuse_unknown(config)
    try:
        depth, width, heads = config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
        operators: dict[str, Any] = {
            # Made only if a layer asks for it: what no layer uses may be impossible.
            "conv": lambda: ShortConv(kernel=config["conv_L_cache"]),
            "full_attention": lambda: Attention(
                heads=heads, kv_heads=config["num_key_value_heads"], head_dim=config.get("head_dim") or width // heads
            ),
        }
        return Architecture(
            vocab_size=config["vocab_size"],
            width=width,
            ffn_width=_ffn_width(config),
            blocks=tuple(operators[kind]() for kind in _kinds(config, depth)),
            rope_theta=_rope(config)["rope_theta"],
            yarn=_yarn(config),
            norm_eps=config["norm_eps"],
            tied=bool(config.get("tie_embedding", config["tie_word_embeddings"])),  # the former is its older spelling
        )
    except KeyError as missing:
        raise CheckpointError(
            f"config.json lacks {missing}", advice="use the config.json that belongs to the weights"
        ) from None
    except ValidationError as wrong:
        raise UnsupportedArchitecture(
            f"config.json describes a model that ours cannot be: {'; '.join(map(_reason, wrong.errors()))}",
            advice="only shapes that can be exported and quantised are loaded",
        ) from None
    except (TypeError, ValueError, ZeroDivisionError) as wrong:
        raise CheckpointError(
            f"config.json has a malformed field: {wrong}", advice="use the config.json that belongs to the weights"
        ) from wrong


def save_folder(model: HybridLM, folder: Path, *, tokenizer: str | None = None, end_of_text: int | None = None) -> None:
    """Write a folder that transformers.Lfm2ForCausalLM.from_pretrained loads. `tokenizer` is tokenizer.json's text.

    Raises:
        UnsupportedArchitecture: see `to_config`; nothing is written then.
    """
    dtype = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
    config = to_config(model.architecture, end_of_text=end_of_text, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(tokenizer_config(tokenizer, end_of_text))


def tokenizer_config(tokenizer: str, end_of_text: int | None) -> str:
    """The tokenizer_config.json beside a tokenizer.json of this text."""
    special = {token["id"]: token["content"] for token in json.loads(tokenizer).get("added_tokens", [])}
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": special.get(end_of_text),
    }
    return json.dumps(described, indent=2) + "\n"


def load_folder(folder: Path) -> HybridLM:
    """A model from a Hugging Face Lfm2 folder, sharded or not.

    Raises:
        CheckpointError: files missing, cut short, or not of this architecture.
        UnsupportedArchitecture: see `from_config`.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as wrong:
        raise CheckpointError(f"{folder}: config.json cannot be read: {wrong}") from wrong
    model = HybridLM(from_config(config))
    load_weights(model, _weight_files(folder))
    return model


def _weight_files(folder: Path) -> list[Path]:
    """What transformers reads: one file, or those of an index; what else lies there is not the model's."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists() or not index.exists():
        return [whole]
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    except (OSError, ValueError, KeyError, AttributeError) as wrong:
        raise CheckpointError(f"{index} cannot be read: {wrong}", advice="copy it again") from wrong


def weights(model: HybridLM) -> dict[str, Tensor]:
    """The state dict, contiguous; a tied head is not in it."""
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}


def load_weights(model: HybridLM, files: list[Path]) -> None:
    """Fill `model` from safetensors files.

    Raises:
        CheckpointError: no file, a file cut short, or names and shapes of another architecture.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            found.update(load_file(file))
        except (OSError, SafetensorError) as wrong:
            advice = "copy it again; it may be cut short"
            raise CheckpointError(f"{file} cannot be read: {wrong}", advice=advice) from wrong
    if model.architecture.tied:
        _drop_tied_head(found)
    fit(found, {name: tensor.shape for name, tensor in model.state_dict().items()})
    model.load_state_dict(found)


def fit(found: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> None:
    """Raise CheckpointError, naming the first difference, unless the names and shapes of `found` are those wanted."""
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} belongs nowhere" for name in found if name not in wanted]
    wrong += [
        f"{name} is {list(found[name].shape)}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != torch.Size(shape)
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"the weights do not fit the architecture: {wrong[0]}{more}", advice="use weights and config of one model"
        )


def _drop_tied_head(found: dict[str, Tensor]) -> None:
    head, embedding = found.pop("lm_head.weight", None), found.get("model.embed_tokens.weight")
    if head is not None and (embedding is None or not head.equal(embedding)):
        raise CheckpointError(
            "the head differs from the embedding, to which the architecture ties it",
            advice="set tie_word_embeddings (tied, in architecture.json) to false",
        )


def _reason(error: ErrorDetails) -> str:
    field = str(error["loc"][-1]) if error["loc"] else ""
    message = re.sub(r"\b(kv_)?heads\b", lambda word: _FIELDS[word[0]], error["msg"])
    return f"{_FIELDS.get(field, field)}: {message}".removeprefix(": ")


def _only(name: str, values: set[int], default: int) -> int:
    if len(values) > 1:
        raise UnsupportedArchitecture(
            f"Lfm2 has one {name} for all layers, and this architecture has {sorted(values)}",
            advice=f"give every layer the same {name} to exchange it with transformers",
        )
    return values.pop() if values else default


def _longest(yarn: Yarn | None) -> int:
    return _LARGEST_CONTEXT if yarn is None else round(yarn.factor * yarn.original)


def _rope_parameters(architecture: Architecture) -> dict[str, Any]:
    plain = {"rope_type": "default", "rope_theta": architecture.rope_theta}
    yarn = architecture.yarn
    if yarn is None:
        return plain
    return plain | {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original,
        "beta_fast": yarn.fast,
        "beta_slow": yarn.slow,
    }


def _yarn(config: dict[str, Any]) -> Yarn | None:
    """What absent fields mean is as in transformers' modeling_rope_utils."""
    rope = _rope(config)
    if rope["rope_type"] != "yarn":
        return None
    longest = config.get("max_position_embeddings", _LARGEST_CONTEXT)
    original = config.get("original_max_position_embeddings", rope.get("original_max_position_embeddings", longest))
    factor = longest / original if rope["factor"] is None else rope["factor"]
    yarn = Yarn(factor=factor, original=original, fast=rope.get("beta_fast") or 32.0, slow=rope.get("beta_slow") or 1.0)
    told = _attention_factor(rope, factor)
    if told is not None and not math.isclose(told, attention_factor(yarn), rel_tol=1e-7):
        raise UnsupportedArchitecture(
            f"yarn's attention factor is {told}, not the {attention_factor(yarn):.6f} that follows from its factor",
            advice="only YaRN's own temperature can be loaded",
        )
    return yarn


def _attention_factor(rope: dict[str, Any], factor: float) -> float | None:
    """What the fields say of it; None: nothing, it is YaRN's own."""
    told: float | None = rope.get("attention_factor")
    many, every = rope.get("mscale"), rope.get("mscale_all_dim")
    if told is not None or not (many and every):
        return told
    above, below = (0.1 * scale * math.log(max(factor, 1.0)) + 1.0 for scale in (many, every))
    return float(above / below)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    nested = config.get("rope_scaling") or config.get("rope_parameters") or {}  # transformers' order
    kind = nested.get("rope_type", nested.get("type", "default"))  # `type` is the older spelling
    return {"rope_theta": config.get("rope_theta", _DEFAULT_THETA), **nested, "rope_type": kind}


def _kinds(config: dict[str, Any], depth: int) -> list[str]:
    kinds = config.get("layer_types")
    if kinds is None:
        indices = config.get("full_attn_idxs")
        attention = range(depth) if indices is None else indices  # transformers' default is attention everywhere
        return ["full_attention" if index in attention else "conv" for index in range(depth)]
    if len(kinds) != depth:
        raise CheckpointError(
            f"layer_types names {len(kinds)} layers, and num_hidden_layers is {depth}",
            advice="use the config.json that belongs to the weights",
        )
    if unknown := sorted(set(kinds) - {"conv", "full_attention"}):
        raise UnsupportedArchitecture(
            f"layer_types has {', '.join(map(repr, unknown))}", advice="only 'conv' and 'full_attention' are known"
        )
    return list(kinds)


def _ffn_width(config: dict[str, Any]) -> int:
    """The effective width: Lfm2's field is a request that block_auto_adjust_ff_dim cuts to two thirds and rounds up."""
    width = int(config["block_ff_dim"] if "block_ff_dim" in config else config["intermediate_size"])
    if not config["block_auto_adjust_ff_dim"]:
        return width
    width = int(2 * width / 3)
    multiplier = config["block_ffn_dim_multiplier"]
    if multiplier is None:
        return width
    multiple = int(config["block_multiple_of"])
    return multiple * -(-int(multiplier * width) // multiple)


def _refuse_unknown(config: dict[str, Any]) -> None:
    rope = _rope(config)
    # transformers once read `theta` and now passes over it: what it means alone depends on who reads.
    alone = "theta" in config and "rope_theta" not in {*config, *(config.get("rope_parameters") or {})}
    refusals = {
        f"model_type is {config.get('model_type')!r}, not 'lfm2'": config.get("model_type") != "lfm2",
        "conv_bias is set: the convolutions have biases": config["conv_bias"],
        f"rope_type is {rope['rope_type']!r}: rope is scaled": rope["rope_type"] not in ("default", "yarn"),
        "truncate is false: YaRN's ramp begins between two pairs": rope["rope_type"] == "yarn"
        and not rope.get("truncate", True),
        "partial_rotary_factor is set: heads are rotated in part": rope.get("partial_rotary_factor") not in (None, 1),
        "theta is given without rope_theta": alone and config["theta"] != _DEFAULT_THETA,
    }
    for reason, holds in refusals.items():
        if holds:
            raise UnsupportedArchitecture(reason, advice="only plain Lfm2 models can be loaded")
