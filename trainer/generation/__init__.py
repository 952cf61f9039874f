"""Generation: what is asked of a request, how its tokens are chosen, and how they become text."""

from trainer.generation.errors import EmptyPrompt, NoTokenizer, NotReproducible, UnknownToken
from trainer.generation.params import SamplingParams

__all__ = ["EmptyPrompt", "NoTokenizer", "NotReproducible", "SamplingParams", "UnknownToken"]
