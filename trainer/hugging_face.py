"""The deliberate export of a model for transformers: a folder that AutoModelForCausalLM and AutoTokenizer load."""

import copy
import json
import shutil
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer

from trainer.chat import JinjaTemplate, OwnTemplate
from trainer.errors import CheckpointError, UnsupportedArchitecture
from trainer.files import fresh_draft, fsync_directory, write_text
from trainer.interop import save_folder
from trainer.model import HybridLM
from trainer.precision import HEAD
from trainer.quantise import Packing
from trainer.tokenizer import end_of_text

Dtype = Literal["f32", "f16", "bf16"]

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def as_deployed(model: HybridLM, packing: Packing) -> HybridLM:
    """A plain model whose weights are what a packing holds of them; its activations are not rounded.

    The product of a 4-bit integer and a bfloat16 scale has at most 11 significant bits: float16 holds it exactly
    within its range, bfloat16 does not.

    Raises:
        UnsupportedArchitecture: a tied matrix is read and written differently, so one matrix cannot be both.
        CheckpointError, QuantisationError: the packing is another model's.
    """
    packing.check(model.architecture)
    tied = model.architecture.tied
    if tied and not packing.shares_the_tied_matrix:
        raise UnsupportedArchitecture(
            "the deployed model reads tokens from another embedding than its head, and this folder has one for both",
            advice="export the weights as they were trained: without rounding, or as GGUF",
        )
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for role, integers in packing.integers.items():
            if not (tied and role == HEAD):
                plain.get_parameter(role).copy_(integers.dequantised())
    return plain


def save_hugging_face(
    model: HybridLM,
    directory: Path,
    *,
    tokenizer: Tokenizer,
    dtype: Dtype = "f32",
    template: OwnTemplate | None = None,
) -> None:
    """Write config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json.

    `template` goes along as chat_template.jinja, and what ends an answer by it ends generation. The directory appears
    whole or not at all.

    Raises:
        UnsupportedArchitecture: see `to_config`.
        CheckpointError: something is there already, or the disk is full or refuses.
    """
    if directory.exists() and any(directory.iterdir()):
        raise CheckpointError(f"{directory} is not empty", advice="name a directory that does not exist yet")
    end = end_of_text(tokenizer)
    draft: Path | None = None
    try:
        draft = fresh_draft(directory)
        typed = copy.deepcopy(model).to(_DTYPES[dtype])
        save_folder(typed, draft, tokenizer=tokenizer.to_str(), end_of_text=end)
        ends = [end]
        if template is not None:
            template.write(draft)
            ends = list(JinjaTemplate(tokenizer, template.source, template.special).ends)
        # Padding is needed by batches alone, and is masked there; the end of text serves as in GPT-2.
        generation = {"do_sample": False, "eos_token_id": ends if len(ends) > 1 else end, "pad_token_id": end}
        write_text(draft / "generation_config.json", json.dumps(generation, indent=2) + "\n")
        if directory.exists():
            directory.rmdir()  # empty, as was seen above
        draft.rename(directory)
        fsync_directory(directory.parent)
    except (OSError, SafetensorError) as wrong:
        raise CheckpointError(
            f"{directory} cannot be written: {wrong}", advice="free some space, or name another"
        ) from wrong
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
