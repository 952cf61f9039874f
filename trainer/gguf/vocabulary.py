"""A tokenizer in GGUF's terms: tokens, their kinds, merges, and the name under which llama.cpp knows how to cut text.

llama.cpp has the rules of pre-tokenisation in its code, by name. A tokenizer whose rules have no such name would give
other tokens there, so it is refused.
"""

import json
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from trainer.errors import TokenizerError
from trainer.tokenizer import end_of_text, require_fit

# Llama 3's pattern, which LFM2's tokenizer has too: numbers in threes, contractions in either case.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_ADVICE = "give the model a byte-level BPE of GPT-2's or Llama 3's kind, or export a Hugging Face folder"


def add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Write the tokenizer; ids from its own size up to `vocab_size` are marked as unused.

    Raises:
        TokenizerError: rules that llama.cpp has no name for, or more ids than the model has.
    """
    require_fit(tokenizer, vocab_size)
    described = json.loads(tokenizer.to_str())
    name = _pre_tokenizer(described)
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    kinds = [TokenType.UNUSED] * vocab_size
    for token, index in tokenizer.get_vocab().items():
        tokens[index], kinds[index] = token, TokenType.NORMAL
    for added in described.get("added_tokens", []):
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    end = end_of_text(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([_pair(merge) for merge in described["model"]["merges"]])
    writer.add_bos_token_id(end)  # every document begins with it; a prompt goes on, so none is put before it
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def _pair(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _pre_tokenizer(described: dict[str, Any]) -> str:
    model = described["model"]
    plain = {"byte_fallback": False, "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    odd = [name for name, usual in plain.items() if (model.get(name) or usual) != usual]
    if model["type"] != "BPE" or odd:
        what = f"BPE with {', '.join(odd)}" if odd else model["type"]
        raise TokenizerError(f"llama.cpp has no tokenizer like this one: {what}", advice=_ADVICE)
    if described.get("normalizer") is not None:
        raise TokenizerError("the tokenizer normalises text, which llama.cpp would not do", advice=_ADVICE)
    name = _cutting(described.get("pre_tokenizer") or {})
    whole = bool(model.get("ignore_merges"))  # llama.cpp ties it to the name: words of the vocabulary stay whole
    if name is None or whole != (name == "llama-bpe"):
        raise TokenizerError("llama.cpp has no name for how this tokenizer cuts text into words", advice=_ADVICE)
    return name


def _cutting(pre: dict[str, Any]) -> str | None:
    match pre:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return "gpt-2"
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if pattern == _LLAMA_3:
            return "llama-bpe"
        case _:
            return None
