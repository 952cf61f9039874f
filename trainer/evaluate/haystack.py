"""The text that evaluations read: one stream of tokens, and how many bytes each token is."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from trainer.data import Corpus
from trainer.errors import CorpusError
from trainer.tokenizer import end_of_text, token_bytes

_FEWEST = 64


@dataclass(frozen=True)
class Text:
    """ids [n] int64 of documents laid end to end, token_bytes [vocab], and the token that begins a document."""

    ids: Tensor
    token_bytes: Tensor
    end_of_text: int

    @classmethod
    def held_out(cls, corpus: Corpus, tokens: int) -> "Text":
        """Up to `tokens` of a corpus's held-out text."""
        sequence = max(1, min(tokens, corpus.tokens("held_out") - 1))
        part = next(iter(corpus.held_out(size=1, sequence=sequence, windows=1)))
        return cls(part.inputs[0], corpus.token_bytes, corpus.end_of_text)

    @classmethod
    def of(cls, documents: Iterable[str], tokenizer: Tokenizer, vocab_size: int, tokens: int) -> "Text":
        """Documents until there are `tokens` of them.

        Raises:
            CorpusError: there is next to nothing.
        """
        end, ids = end_of_text(tokenizer), list[int]()
        for document in documents:
            ids += [end, *tokenizer.encode(document, add_special_tokens=False).ids]
            if len(ids) >= tokens:
                break
        if len(ids) < _FEWEST:
            raise CorpusError(f"the text has only {len(ids)} tokens", advice="give more text")
        sizes = torch.from_numpy(token_bytes(tokenizer, vocab_size))
        return cls(torch.tensor(ids[:tokens]), sizes, end)

    def windows(self, count: int, length: int) -> Tensor:
        """`count` windows [count, length] spread evenly over the text; a text that is shorter is read again."""
        starts = torch.arange(count)[:, None] * max(1, (len(self.ids) - length) // max(1, count))
        return self.ids[(starts + torch.arange(length)) % len(self.ids)]
