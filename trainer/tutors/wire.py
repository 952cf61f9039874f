"""OpenAI's chat completions on the wire (platform.openai.com/docs/api-reference/chat): what is sent, what is read.

`top_k`, `min_p` and `repetition_penalty` are not OpenAI's; vLLM, llama.cpp and our own server know them. What is at its
default is not sent, so that a server which lacks them is not bothered.
"""

import json
import math
from typing import Any

from trainer.generation.params import SamplingParams
from trainer.generation.sampling import seed_of_sample
from trainer.tutors.port import Answer, Finish, Question, TutorError

_SEEDS = 2**63
_CHARACTERS_A_TOKEN = 4  # of English text; only for rate limits, and for servers that do not count
_SENT_UNLESS_DEFAULT = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "filtered"}


class Garbage(Exception):
    """An answer that is no chat completion."""


def body_of(model: str, question: Question, sample: int) -> dict[str, Any]:
    """The request for one sample of a question.

    Raises:
        TutorError: sampling that this interface has no words for.
    """
    sampling = question.sampling
    if sampling.no_repeat_ngram or sampling.stop_tokens:
        raise TutorError(
            "an endpoint takes neither no_repeat_ngram nor stop_tokens", advice="use stop, or a penalty on repetition"
        )
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in question.messages],
        "temperature": sampling.temperature,
        "seed": seed_of_sample(sampling.seed, sample) % _SEEDS,
    }
    usual = SamplingParams()
    body |= {
        name: getattr(sampling, name)
        for name in _SENT_UNLESS_DEFAULT
        if getattr(sampling, name) != getattr(usual, name)
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    return body


def tokens_of(body: dict[str, Any]) -> int:
    """What a request may take of a limit on tokens, before it is known."""
    said = sum(len(message["content"]) for message in body["messages"])
    return _estimated(said) + int(body.get("max_tokens") or 0)


def answer_in(body: dict[str, Any], kind: str, content: bytes) -> Answer:
    """The answer in a response of content type `kind`.

    Raises:
        Garbage: there is none in it.
    """
    if "json" not in kind.lower():
        raise Garbage(f"an answer of type {kind or 'unknown'!r}, not JSON")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as wrong:
        raise Garbage(f"what is no JSON ({type(wrong).__name__})") from wrong
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Garbage("no choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Garbage("a choice without a message")
    finish = _FINISHES.get(str(choice.get("finish_reason")), "stop")
    text = message.get("content")
    if text is None and isinstance(message.get("refusal"), str):
        text, finish = message["refusal"], "filtered"
    if text is None and finish == "filtered":
        text = ""
    if not isinstance(text, str):
        raise Garbage("a message without text")
    text = text.encode("utf-8", "replace").decode()  # JSON can say half a surrogate pair; no file can hold it
    used = found.get("usage")
    said = sum(len(each["content"]) for each in body["messages"])
    return Answer(text, _count(used, "completion_tokens", len(text)), finish, _count(used, "prompt_tokens", said))


def complaint_in(content: bytes) -> tuple[str, str]:
    """(what a server says is wrong, its code) from the body of an error, in OpenAI's shape or any other."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return " ".join(content[:300].decode(errors="replace").split()), ""
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return str(error)[:300], ""
    return str(error.get("message") or error.get("detail") or error)[:300], str(error.get("code") or "")


def _count(used: object, name: str, characters: int) -> int:
    found = used.get(name) if isinstance(used, dict) else None
    if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
        return found
    return _estimated(characters)


def _estimated(characters: int) -> int:
    return math.ceil(characters / _CHARACTERS_A_TOKEN)
