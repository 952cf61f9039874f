"""Generation: a batched engine with continuous admission, sampling, and a prefix cache over hybrid state.

    engine = Engine(model, tokenizer=tokenizer, context=4096, cache_bytes=256 << 20)
    handle = engine.submit(prompt_ids, SamplingParams(temperature=0.7, seed=3, stop=("\n\n",)))
    for event in handle:            # drives the engine, or waits for the thread that does
        print(event.text, end="")
    answer = handle.result()        # Completion: tokens, text, logprobs, finish, cached_tokens

A server starts one thread that steps the engine, and submits from as many as it likes:

    with engine.serving():
        handle = engine.submit(...)     # thread-safe; handle.cancel() too

What a request answers is a function of the model, its prompt and its parameters alone: the bits of its tokens and
logits depend neither on who shares the batch, nor on how prompts are cut into chunks, nor on what the cache holds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from trainer.generation.params import SamplingParams

if TYPE_CHECKING:
    from trainer.generation.engine import GREEDY, Engine
    from trainer.generation.errors import EmptyPrompt, NoTokenizer, NotReproducible, UnknownToken
    from trainer.generation.groups import rollouts
    from trainer.generation.prefix import CacheStatistics
    from trainer.generation.requests import Completion, Event, Finish, Handle

__all__ = [
    "GREEDY",
    "CacheStatistics",
    "Completion",
    "EmptyPrompt",
    "Engine",
    "Event",
    "Finish",
    "Handle",
    "NoTokenizer",
    "NotReproducible",
    "SamplingParams",
    "UnknownToken",
    "rollouts",
]

_MODULES = {
    "engine": ("GREEDY", "Engine"),
    "errors": ("EmptyPrompt", "NoTokenizer", "NotReproducible", "UnknownToken"),
    "groups": ("rollouts",),
    "prefix": ("CacheStatistics",),
    "requests": ("Completion", "Event", "Finish", "Handle"),
}


def __getattr__(name: str) -> object:
    """What needs torch is imported when it is first asked for: a server checks parameters without it."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
