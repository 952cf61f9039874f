"""What can be wrong with a request or with the machine that answers it."""

from trainer.errors import TrainerError


class EmptyPrompt(TrainerError):
    """A prompt without tokens: there is nothing to continue."""

    slug = "empty-prompt"


class UnknownToken(TrainerError):
    """A token id that the model's vocabulary does not have."""

    slug = "unknown-token"


class NoTokenizer(TrainerError):
    """Stop texts were asked of an engine that knows no tokenizer."""

    slug = "no-tokenizer"


class NotReproducible(TrainerError):
    """On this machine a row of a matrix product depends on the rows beside it, so a cache could change answers."""

    slug = "not-reproducible"
