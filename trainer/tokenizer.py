"""Byte-level BPE: trained on the corpus, or loaded from a tokenizer.json.

Every document begins with the end-of-text token, so that its first token is predicted from something and a prompt
starts as a document does; a model that writes the token has ended its text.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.errors import ContextOverflow, TokenizerError

END_OF_TEXT = "<|endoftext|>"
SMALLEST_VOCABULARY = 257  # 256 bytes and the end of text
_SAMPLE_BYTES = 16_000_000  # merges hardly change beyond it, and the trainer's memory grows with distinct words
_KNOWN_ENDS = (END_OF_TEXT, "<|im_end|>", "</s>", "<eos>", "<|end_of_text|>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` ids (fewer where the text has no more pairs to merge).

    Raises:
        TokenizerError: fewer ids than there are bytes.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise TokenizerError(
            f"a byte-level vocabulary of {vocab_size} cannot hold 256 bytes and the end of text",
            advice=f"ask for a vocab_size of at least {SMALLEST_VOCABULARY}",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts), trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path, label: str = "") -> Tokenizer:
    """Read a tokenizer.json; errors call it `label`, or else by its path.

    Raises:
        TokenizerError: missing, unreadable, not byte-level, or without a known end of text.
    """
    label = label or str(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as wrong:  # the library raises bare Exception for every fault of a file
        raise TokenizerError(
            f"{label} cannot be read: {wrong}", advice="give a tokenizer.json of Hugging Face"
        ) from wrong
    if '"ByteLevel"' not in tokenizer.to_str():
        raise TokenizerError(f"{label} is not byte-level", advice="bits per byte need a byte-level tokenizer")
    end_of_text(tokenizer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def require_fit(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises TokenizerError when a model of `vocab_size` ids has no room for all of the tokenizer's."""
    if tokenizer.get_vocab_size() > vocab_size:
        raise TokenizerError(
            f"the tokenizer has {tokenizer.get_vocab_size()} ids, and the model {vocab_size}", advice="raise vocab_size"
        )


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id that separates documents.

    Raises:
        TokenizerError: none of the usual names is in the vocabulary.
    """
    for name in _KNOWN_ENDS:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    raise TokenizerError("the tokenizer has no end of text", advice=f"add one of {', '.join(_KNOWN_ENDS)}")


def token_bytes(tokenizer: Tokenizer, vocab_size: int) -> NDArray[np.int64]:
    """UTF-8 bytes that each id stands for, [vocab_size]; special and unused ids stand for none."""
    lengths = np.zeros(vocab_size, dtype=np.int64)
    special = set(tokenizer.get_added_tokens_decoder())
    for token, index in tokenizer.get_vocab().items():
        if index not in special:
            lengths[index] = len(token)  # the byte-level alphabet has one character per byte
    return lengths


def refuse_overlong(tokenizer: Tokenizer, text: str, context: int) -> None:
    """Raise ContextOverflow for a text that cannot fit, by its bytes and the longest token: encoding it takes long."""
    needed = len(text.encode(errors="replace")) // max(map(len, tokenizer.get_vocab()))
    if needed > context:
        raise ContextOverflow(
            f"a text of {len(text)} characters has {needed} tokens at the least, which exceed the context of {context}",
            advice="shorten the prompt, or make the context larger",
        )


def _sample(texts: Iterable[str]) -> Iterator[str]:
    taken = 0
    for text in texts:
        yield text[:_SAMPLE_BYTES]
        taken += len(text)
        if taken >= _SAMPLE_BYTES:
            break
