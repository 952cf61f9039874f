"""An Lfm2 model as a GGUF file. Names of fields and tensors: llama.cpp, src/models/lfm2.cpp and conversion/lfm2.py."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType
from gguf.constants import GGML_QUANT_VERSION
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from trainer.architecture import Architecture, Attention
from trainer.errors import CheckpointError, UnsupportedArchitecture
from trainer.files import fresh_draft, fsync_directory, fsync_file
from trainer.gguf.blocks import q4_0, q8_0
from trainer.gguf.vocabulary import add_vocabulary
from trainer.interop import to_config
from trainer.model import HybridLM
from trainer.precision import EMBEDDING, HEAD
from trainer.quantise import Packing, pack

PlainType = Literal["f32", "f16", "bf16"]
WeightType = Literal[PlainType, "q4_0"]

_FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
_NAMES = {  # ours, which are transformers', after "model." -> llama.cpp's
    "embed_tokens": "token_embd",
    "lm_head": "output",
    "embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}


class Entry(NamedTuple):
    """A tensor of the file; of Q4_0 and Q8_0 the rows' bytes, otherwise its values."""

    name: str
    array: NDArray[np.generic]
    kind: GGMLQuantizationType


class Written(NamedTuple):
    """What a file became. `rounded` counts the blocks whose scale fp16 holds only nearly; 0 is exact."""

    file: Path
    size: int
    rounded: int


def save_gguf(
    model: HybridLM,
    file: Path,
    *,
    tokenizer: Tokenizer | None,
    kind: WeightType = "f32",
    packing: Packing | None = None,
) -> Written:
    """Write `model` as a file that llama.cpp loads, in place of one that is there; without a tokenizer it has no words.

    Norms and convolutions are float32 always. "q4_0" takes the integers of `packing` (without one, those of `pack`) as
    they are, 8-bit matrices as Q8_0; where a tied matrix is read and written differently, the file has both.

    Raises:
        UnsupportedArchitecture: llama.cpp's lfm2 cannot be this model; nothing is written.
        QuantisationError: see `pack` and `q4_0`.
        TokenizerError: see `add_vocabulary`.
        CheckpointError: the disk is full or refuses; what was there before is untouched.
    """
    counted: list[int] = []
    if kind == "q4_0":
        packing = pack(model) if packing is None else packing
        packing.check(model.architecture)
        entries = _deployed(model, packing, counted)
    else:
        entries = _entries(model, kind)
    write(file, model.architecture, entries, kind=kind, tokenizer=tokenizer)
    return Written(file, file.stat().st_size, sum(counted))


def write(
    file: Path,
    architecture: Architecture,
    entries: Iterable[Entry],
    *,
    kind: WeightType,
    tokenizer: Tokenizer | None,
) -> None:
    """Write a file of these tensors; see `save_gguf`, which makes them of a model."""
    refuse_unknown(architecture)
    folder: Path | None = None
    try:
        folder = fresh_draft(file)
        draft = folder / file.name
        writer = GGUFWriter(draft, MODEL_ARCH_NAMES[MODEL_ARCH.LFM2])
        _describe(writer, architecture)
        writer.add_file_type(_FILE_TYPES[kind])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        if tokenizer is None:
            writer.add_tokenizer_model("none")
        else:
            add_vocabulary(writer, tokenizer, architecture.vocab_size)
        for entry in entries:
            writer.add_tensor(entry.name, entry.array, raw_dtype=entry.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        fsync_file(draft)
        draft.rename(file)
        fsync_directory(file.parent)
    except OSError as wrong:
        raise CheckpointError(
            f"{file} cannot be written: {wrong}", advice="free some space, or name another"
        ) from wrong
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def refuse_unknown(architecture: Architecture) -> None:
    """Raises UnsupportedArchitecture unless llama.cpp's lfm2 can be this model."""
    to_config(architecture)
    attentions = [block for block in architecture.blocks if isinstance(block, Attention)]
    if len(attentions) in (0, architecture.depth):
        raise UnsupportedArchitecture(
            "llama.cpp's lfm2 has both convolutions and attention, and this model has one of them alone",
            advice="export a Hugging Face folder",
        )
    for block in attentions[:1]:  # all are alike, says to_config
        if block.heads * block.head_dim != architecture.width:
            raise UnsupportedArchitecture(
                f"llama.cpp's lfm2 has queries as wide as the model ({architecture.width}), and this one has "
                f"{block.heads} heads of {block.head_dim}",
                advice="export a Hugging Face folder, or choose heads that fill the width",
            )


def _describe(writer: GGUFWriter, architecture: Architecture) -> None:
    config = to_config(architecture)
    keys = [block.kv_heads if isinstance(block, Attention) else 0 for block in architecture.blocks]
    writer.add_block_count(architecture.depth)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(architecture.width)
    writer.add_feed_forward_length(architecture.ffn_width)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(keys)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(architecture.rope_theta)
    if architecture.yarn is not None:
        # llama.cpp derives the attention temperature from the factor, as the paper and we do (ggml's rope_yarn).
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(architecture.yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(architecture.yarn.original)
        writer.add_rope_scaling_yarn_beta_fast(architecture.yarn.fast)
        writer.add_rope_scaling_yarn_beta_slow(architecture.yarn.slow)
    writer.add_layer_norm_rms_eps(architecture.norm_eps)
    writer.add_vocab_size(architecture.vocab_size)
    writer.add_shortconv_l_cache(config["conv_L_cache"])


def tensor_name(parameter: str) -> str:
    """llama.cpp's name of a parameter of `trainer.model`."""
    name = parameter.removeprefix("model.").removesuffix(".weight")
    if not name.startswith("layers."):
        return f"{_NAMES[name]}.weight"
    _, index, rest = name.split(".", 2)
    return f"blk.{index}.{_NAMES[rest]}.weight"


def _entries(model: HybridLM, kind: PlainType) -> Iterator[Entry]:
    for parameter, tensor in model.state_dict().items():
        weight = tensor.detach().float()
        name = tensor_name(parameter)
        yield _plain(name, weight, kind) if weight.dim() == 2 else _unrounded(name, weight)


def _deployed(model: HybridLM, packing: Packing, counted: list[int]) -> Iterator[Entry]:
    for parameter, tensor in model.state_dict().items():
        weight = tensor.detach().float()
        if weight.dim() == 2:
            yield _matrix(tensor_name(parameter), parameter, weight, packing, counted)
        else:
            yield _unrounded(tensor_name(parameter), weight)
    if model.architecture.tied and not packing.shares_the_tied_matrix:
        yield _matrix("output.weight", HEAD, model.get_parameter(EMBEDDING).detach().float(), packing, counted)


def _matrix(name: str, role: str, weight: Tensor, packing: Packing, counted: list[int]) -> Entry:
    if role not in packing.integers:
        return _plain(name, weight, "f32")
    four = packing.scheme.of(role).bits == 4
    packed = (q4_0 if four else q8_0)(*packing.integers[role])
    counted.append(packed.rounded)
    return Entry(name, packed.blocks, GGMLQuantizationType.Q4_0 if four else GGMLQuantizationType.Q8_0)


def _unrounded(name: str, weight: Tensor) -> Entry:
    return _plain(name, weight.squeeze(1) if weight.dim() == 3 else weight, "f32")  # a kernel is [d, 1, k]


def _plain(name: str, weight: Tensor, kind: PlainType) -> Entry:
    match kind:
        case "f32":
            return Entry(name, weight.numpy(), GGMLQuantizationType.F32)
        case "f16":
            return Entry(name, weight.half().numpy(), GGMLQuantizationType.F16)
        case "bf16":  # numpy has none
            return Entry(name, weight.bfloat16().view(torch.uint8).numpy(), GGMLQuantizationType.BF16)
